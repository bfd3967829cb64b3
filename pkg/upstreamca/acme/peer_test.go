package acme

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A peer answers as an authority does that believes each device, except where a test has another answer.
type peer struct {
	*testing.T
	instead map[string]http.HandlerFunc // by path
	token   string                      // of the challenge, in JSON; empty: a good one

	mu       sync.Mutex
	asked    map[string]int
	accepted bool
	leaf     []byte // what was certified, DER
	key      *ecdsa.PrivateKey
}

// start runs a peer, and returns how a device asks it.
func (p *peer) start(t *testing.T) (cfg Config, csr []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	p.T, p.asked = t, make(map[string]int)
	cfg, csr, p.key = place(t, p.answer)
	return cfg, csr, p.key
}

// count is how often a path was asked.
func (p *peer) count(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

func (p *peer) answer(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked[r.URL.Path]++
	nonce := strconv.Itoa(len(p.asked)) + "-" + strconv.Itoa(p.asked[r.URL.Path])
	p.mu.Unlock()
	w.Header().Set("Replay-Nonce", nonce)
	if instead := p.instead[r.URL.Path]; instead != nil {
		instead(w, r)
		return
	}
	p.usual(w, r)
}

func (p *peer) usual(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	base := "https://" + r.Host
	status, kind := "pending", "pending"
	if p.accepted {
		status, kind = "ready", "valid"
	}
	challenge := fmt.Sprintf(`{"type": "device-attest-01", "url": "%s/challenge", "token": %s, "status": "%s"}`, base, cmp.Or(p.token, `"dG9rZW4"`), kind)
	switch r.URL.Path {
	case "/directory":
		fmt.Fprintf(w, `{"newNonce": "%[1]s/nonce", "newAccount": "%[1]s/account", "newOrder": "%[1]s/orders"}`, base)
	case "/nonce":
	case "/account":
		w.Header().Set("Location", base+"/account/1")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"status": "valid"}`)
	case "/orders", "/order", "/finalize":
		if r.URL.Path == "/orders" {
			w.Header().Set("Location", base+"/order")
			w.WriteHeader(http.StatusCreated)
		}
		if r.URL.Path == "/finalize" {
			p.certify(r)
		}
		if p.leaf != nil {
			status = "valid"
		}
		fmt.Fprintf(w, `{"status": "%[1]s", "authorizations": ["%[2]s/authorization"], "finalize": "%[2]s/finalize", "certificate": "%[2]s/certificate"}`, status, base)
	case "/authorization":
		fmt.Fprintf(w, `{"status": "%s", "identifier": {"type": "permanent-identifier", "value": "one"}, "challenges": [%s]}`, kind, challenge)
	case "/challenge":
		p.accepted = true
		fmt.Fprint(w, challenge)
	case "/certificate":
		if err := pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: p.leaf}); err != nil {
			p.Error(err)
		}
	default:
		p.Errorf("it is asked for %s", r.URL.Path)
		http.NotFound(w, r)
	}
}

// certify certifies the request that an order is finalized with.
func (p *peer) certify(r *http.Request) {
	var signed struct{ Payload string }
	var finalize struct{ CSR string }
	text, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(text, &signed)
	}
	if err == nil {
		text, err = base64.RawURLEncoding.DecodeString(signed.Payload)
	}
	if err == nil {
		err = json.Unmarshal(text, &finalize)
	}
	if err == nil {
		text, err = base64.RawURLEncoding.DecodeString(finalize.CSR)
	}
	if err != nil {
		p.Error(err)
		return
	}
	request, err := x509.ParseCertificateRequest(text)
	if err != nil {
		p.Error(err)
		return
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: request.Subject, NotAfter: time.Now().Add(time.Hour)}
	by := &x509.Certificate{Subject: pkix.Name{CommonName: "an authority"}}
	if p.leaf, err = x509.CreateCertificate(rand.Reader, template, by, request.PublicKey, p.key); err != nil {
		p.Error(err)
	}
}

// refuse answers with a problem.
func refuse(status int, kind, more string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"type": "urn:ietf:params:acme:error:%s", "detail": "it is so"%s}`, kind, more)
	}
}
