// Package apitest runs the real API over the real bus, for tests of its clients.
package apitest

import (
	"context"
	"crypto/cipher"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// Token is that of somebody who may everything. Everybody else has his name for a token.
const Token = "secret"

// An API is one that runs until the test ends.
type API struct {
	*apiserver.Server
	Web *httptest.Server // where it is reached
	t   testing.TB
}

// Start starts one that seals Secrets with sealer; nil: it stores none.
func Start(t testing.TB, sealer cipher.AEAD) *API {
	t.Helper()
	b := bustest.Start(t)
	s, err := apiserver.New(apiserver.Config{
		Resources: b.Controller.Records(bus.StreamResource), Status: b.Controller.Records(bus.StreamStatus), Version: "test", Log: b.Log, Sealer: sealer,
		Authenticate: func(_ context.Context, token string) (apiserver.Identity, error) {
			if token != Token {
				return apiserver.Identity{User: token}, nil
			}
			return apiserver.Identity{User: "tester", Groups: []string{rbac.Masters}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, s.Run)
	web := httptest.NewTLSServer(s.Handler())
	t.Cleanup(web.Close)
	t.Cleanup(web.CloseClientConnections)
	awaitReady(t, web)
	return &API{s, web, t}
}

// awaitReady waits until the API answers: on a slow machine that takes longer than a request waits for it.
func awaitReady(t testing.TB, web *httptest.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, web.URL+"/api/v1/namespaces", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+Token)
		res, err := web.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return
		}
		if res.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("the API is not ready: %s", res.Status)
		}
	}
}

// Kubeconfig is that of a token's holder.
func (a *API) Kubeconfig(token string) string {
	a.t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Web.Certificate().Raw})
	config, err := apiserver.Kubeconfig("test", a.Web.URL, ca, token)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(config)
}
