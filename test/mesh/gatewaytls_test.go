package mesh

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// newCertificate is a new certificate for shop.example.
func newCertificate(t *testing.T, serial int64) tls.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: []string{"shop.example"}, NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// certificateSecret is a document of a new certificate for shop.example, and its key, PEM.
func certificateSecret(t *testing.T, serial int64) (document string, key []byte) {
	t.Helper()
	certificate := newCertificate(t, serial)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: shop}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n",
		base64.StdEncoding.EncodeToString(chain), base64.StdEncoding.EncodeToString(key)), key
}

// TestGatewayTLS: a Secret that an operator applies serves TLS at the gateway, also after a restart of its node, until
// it is written anew; and its key lies in no file of the mesh in a form that can be read.
func TestGatewayTLS(t *testing.T) {
	t.Parallel()
	e := startEdge(t, "default/storefront", "default/edge")
	port := e.Mesh.port()
	document, key := certificateSecret(t, 1)
	e.MustApply(fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  gatewayClassName: sennit\n  listeners:\n"+
		"  - {name: http-%d, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: shop}]}}\n", port, port))
	e.awaitListener(port, "False Invalid")
	e.MustApply(document)
	e.awaitListener(port, "True Programmed")

	ask := func(client *http.Client) (serial int64, err error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/", port), nil)
		if err != nil {
			return 0, err
		}
		request.Host = "shop.example"
		response, err := client.Do(request)
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && (response.StatusCode != http.StatusOK || string(body) != "v1") {
			err = fmt.Errorf("%d %q", response.StatusCode, body)
		}
		return response.TLS.PeerCertificates[0].SerialNumber.Int64(), err
	}
	client := func() *http.Client {
		return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				return e.Dial(ctx, "two", address)
			},
			TLSClientConfig: &tls.Config{ServerName: "shop.example", InsecureSkipVerify: true},
		}}
	}
	kept := client()
	await := func(want int64) {
		t.Helper()
		e.Eventually(fmt.Sprintf("certificate %d", want), func(context.Context) error {
			if got, err := ask(client()); err != nil || got != want {
				return fmt.Errorf("certificate %d, %w", got, err)
			}
			return nil
		})
	}
	await(1)
	if serial, err := ask(kept); err != nil || serial != 1 {
		t.Fatal(serial, err)
	}
	renewed, next := certificateSecret(t, 2)
	e.MustApply(renewed)
	await(2)
	if serial, err := ask(kept); err != nil || serial != 1 {
		t.Errorf("the connection that was open did not outlive the renewal: certificate %d, %v", serial, err)
	}
	e.RestartNode("one")
	await(2)

	for _, secret := range [][]byte{key, next} {
		block, _ := pem.Decode(secret)
		forms := [][]byte{block.Bytes, secret, []byte(base64.StdEncoding.EncodeToString(secret)), []byte(base64.StdEncoding.EncodeToString(block.Bytes))[:64]}
		err := filepath.WalkDir(e.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			for _, form := range forms {
				if bytes.Contains(data, form) {
					t.Errorf("%s holds the private key", path)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
