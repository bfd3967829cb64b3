package controller

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/internal/segments"
	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

// operators are the bearer tokens of the API. Only their hashes are kept, sealed with the authority's keys.
type operators struct {
	authority *ca.Authority

	mu     sync.Mutex
	tokens map[string]operator // by the token's SHA-256, hexadecimal
}

type operator struct {
	User string    `json:"user"`
	Made time.Time `json:"made"`
}

const operatorsSecret = "operator-tokens"

var errTokenRefused = errors.New("the token is not one of this controller's (make a kubeconfig with `sennit kubeconfig` on the controller's host)")

func openOperators(authority *ca.Authority) (*operators, error) {
	o := &operators{authority: authority, tokens: map[string]operator{}}
	kept, err := authority.Secret(operatorsSecret)
	if err != nil || kept == nil {
		return o, err
	}
	return o, json.Unmarshal(kept, &o.tokens)
}

// create makes a token; it is stored before it is shown.
func (o *operators) create(user string) (string, error) {
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return "", err
	}
	token := "sop1." + base64.RawURLEncoding.EncodeToString(secret[:])
	o.mu.Lock()
	defer o.mu.Unlock()
	hash := hashOf(token)
	o.tokens[hash] = operator{User: user, Made: time.Now()}
	kept, err := json.Marshal(o.tokens)
	if err == nil {
		err = o.authority.PutSecret(operatorsSecret, kept)
	}
	if err != nil {
		delete(o.tokens, hash)
	}
	return token, err
}

func (o *operators) authenticate(_ context.Context, token string) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if found, ok := o.tokens[hashOf(token)]; ok { // what is compared is a hash: its timing tells nothing of the token
		return found.User, nil
	}
	return "", errTokenRefused
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// serveAPI answers operators over TLS.
func (c *Controller) serveAPI(ctx context.Context) error {
	if !c.cfg.API.IsValid() {
		<-ctx.Done()
		return nil
	}
	listen := net.ListenConfig{Control: segments.Short} // for every client, kubectl too
	l, err := listen.Listen(ctx, "tcp", c.cfg.API.String())
	if err != nil {
		return fmt.Errorf("%w (another process has the port, or it needs a privilege; choose with --api)", err)
	}
	c.apiAddress.Store(ptr(l.Addr().(*net.TCPAddr).AddrPort()))
	l = tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: c.authority.ServerCertificate(c.cfg.hosts()),
	})
	return socket.Serve(ctx, l, c.withReports(c.api.Handler(), c.authenticated))
}

// serveSocket answers operators on this host, without a token: who may open the file is an operator.
func (c *Controller) serveSocket(ctx context.Context) error {
	if c.cfg.Socket == "" {
		<-ctx.Done()
		return nil
	}
	l, err := socket.Listen(ctx, c.cfg.Socket)
	if err != nil {
		return err
	}
	anybody := func(h http.Handler) http.Handler { return h }
	return socket.Serve(ctx, l, c.withReports(c.api.LocalHandler(localCaller), anybody))
}

// authenticated lets only operators with a token through.
func (c *Controller) authenticated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const bearer = "Bearer "
		header := r.Header.Get("Authorization")
		if len(header) <= len(bearer) || header[:len(bearer)] != bearer {
			c.recorder.refused(apiserver.Caller{From: r.RemoteAddr}, r.Method, r.URL.Path, errTokenRefused)
			socket.WriteFailure(w, http.StatusUnauthorized, errTokenRefused)
			return
		}
		token := header[len(bearer):]
		user, err := c.operators.authenticate(r.Context(), token)
		caller := apiserver.Caller{User: user, From: r.RemoteAddr}
		if err != nil {
			c.recorder.refused(caller, r.Method, r.URL.Path, err)
			socket.WriteFailure(w, http.StatusUnauthorized, err)
			return
		}
		caller.From += ", token " + apiserver.TokenID(token)
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
	})
}

func ptr[T any](v T) *T { return &v }
