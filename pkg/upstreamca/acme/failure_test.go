package acme

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRemedies: what to do about a problem depends on what was asked.
func TestRemedies(t *testing.T) {
	t.Parallel()
	const bind, open, compare, closed, provisioner, longest = "and set eab", "/account", "compare eab.keyID", "was closed, name another", "belongs to one provisioner", "longest time"
	for name, tt := range map[string]struct {
		path, kind string
		bound      bool
		want       string   // empty: nothing is to be done
		never      []string // what would mislead
	}{
		"no binding":            {open, "externalAccountRequired", false, bind, []string{compare}},
		"a wrong binding":       {open, "unauthorized", true, compare, []string{provisioner}},
		"a malformed binding":   {open, "malformed", true, compare, []string{provisioner}},
		"a binding at step-ca":  {open, "serverInternal", true, compare, []string{longest}},
		"a binding is required": {open, "externalAccountRequired", true, compare, []string{bind}},
		"a closed account":      {open, "unauthorized", false, closed, []string{provisioner, compare}},
		"another cause":         {open, "userActionRequired", true, "", nil},
		"nothing to compare":    {open, "malformed", false, "", nil},
		"another provisioner":   {"/orders", "unauthorized", true, provisioner, []string{compare}},
		"a life too long":       {"/finalize", "serverInternal", true, longest, []string{compare}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := http.StatusForbidden
			p := &peer{instead: map[string]http.HandlerFunc{tt.path: refuse(status, tt.kind, "")}}
			cfg, csr, key := p.start(t)
			if tt.bound {
				cfg.EAB = &EAB{KeyID: "one", HMACKeyFile: filepath.Join(t.TempDir(), "hmac")}
				if err := os.WriteFile(cfg.EAB.HMACKeyFile, []byte("c2VjcmV0"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			a, err := New(cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = a.Certify(context.Background(), csr, key, time.Hour)
			said := fmt.Sprintf("%d Forbidden: \"urn:ietf:params:acme:error:%s: it is so\"", status, tt.kind)
			switch {
			case err == nil || !strings.Contains(err.Error(), said):
				t.Errorf("%v, want %s", err, said)
			case tt.want == "" && !strings.HasSuffix(err.Error(), said) || !strings.Contains(err.Error(), tt.want):
				t.Errorf("%v, want %q", err, tt.want)
			}
			for _, never := range tt.never {
				if strings.Contains(fmt.Sprint(err), never) {
					t.Errorf("it misleads by %q: %v", never, err)
				}
			}
		})
	}
}

// TestNotBelieved: why a challenge is not believed is told as the authority has it, be it that the problem has the number of a
// status, and on one line.
func TestNotBelieved(t *testing.T) {
	t.Parallel()
	authorization := func(status, challenge string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"status": %q, "challenges": [{"type": "device-attest-01", "url": "https://%s/challenge", "token": "dG9rZW4", %s}]}`, status, r.Host, challenge)
		}
	}
	const unauthorized = `"error": {"type": "urn:ietf:params:acme:error:unauthorized", "detail": "it\nis so"`
	const told = `prove by device-attest-01: it is not believed: "urn:ietf:params:acme:error:unauthorized: it is so"`
	for name, tt := range map[string]struct{ status, challenge, want string }{
		"with a status":       {"pending", `"status": "invalid", ` + unauthorized + `, "status": 403}`, told},
		"without":             {"pending", `"status": "invalid", ` + unauthorized + `}`, told},
		"the authorization's": {"invalid", `"status": "invalid", ` + unauthorized + `}`, told},
		"without a reason":    {"invalid", `"status": "invalid"`, "prove by device-attest-01: it is not believed: the authority does not say why"},
	} {
		p := &peer{instead: map[string]http.HandlerFunc{"/authorization": authorization(tt.status, strings.ReplaceAll(tt.challenge, "\n", `\n`))}}
		cfg, csr, key := p.start(t)
		a, err := New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Certify(context.Background(), csr, key, time.Hour); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}

	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{}
	p.instead = map[string]http.HandlerFunc{"/authorization": func(w http.ResponseWriter, r *http.Request) {
		if p.count("/authorization") == 3 { // the challenge is answered, and this asks about it for the second time
			_, _ = io.Copy(io.Discard, r.Body)
			cancel()
			<-r.Context().Done()
			return
		}
		authorization("pending", `"status": "processing", `+strings.ReplaceAll(unauthorized, "\n", `\n`)+`}`)(w, r)
	}}
	cfg, csr, key := p.start(t)
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `prove by device-attest-01: "urn:ietf:params:acme:error:unauthorized: it is so" (context canceled)`
	if _, err := a.Certify(ctx, csr, key, time.Hour); !errors.Is(err, context.Canceled) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
