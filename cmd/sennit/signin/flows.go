package signin

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// An outcome is what the browser brought back.
type outcome struct {
	code string
	err  error
}

// Browser signs a person in with a browser: it is led to the provider, and back to a port at listen, an address of the
// loopback interface. open is called with where the browser must go, and returns at once.
func (p *Provider) Browser(ctx context.Context, listen string, open func(url string) error) (Tokens, error) {
	ctx, s, err := p.open(ctx)
	if err != nil {
		return Tokens{}, err
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return Tokens{}, fmt.Errorf("wait for the browser: %w", err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() { // others could bring a code of theirs
		l.Close()
		return Tokens{}, fmt.Errorf("wait for the browser at %s: it must be an address of this host alone, such as 127.0.0.1:0", listen)
	}
	s.oauth.RedirectURL = "http://" + l.Addr().String() + callbackPath
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	came := make(chan outcome, 1)
	server := &http.Server{Handler: callback(state, came), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // until it is closed
	}()
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // the browser reads its page
		defer cancel()
		_ = server.Shutdown(end)
		_ = server.Close()
		<-served
	}()
	if err := open(s.oauth.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))); err != nil {
		return Tokens{}, err
	}
	var got outcome
	select {
	case got = <-came:
	case <-ctx.Done():
		return Tokens{}, fmt.Errorf("nobody signed in: %w", ctx.Err())
	}
	if got.err != nil {
		return Tokens{}, got.err
	}
	token, err := s.oauth.Exchange(ctx, got.code, oauth2.VerifierOption(verifier))
	if err != nil {
		return Tokens{}, fmt.Errorf("sign in: %w", short(err))
	}
	return s.tokens(ctx, token, nonce)
}

const callbackPath = "/callback"

// callback takes the first answer that belongs to state, and no other: any page can send the browser here.
func callback(state string, came chan<- outcome) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+callbackPath, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.Error(w, "this is not the answer to the sign-in that waits here", http.StatusBadRequest)
			return
		}
		got, text := outcome{code: q.Get("code")}, "You are signed in. You can close this window."
		if reason := q.Get("error"); reason != "" || got.code == "" {
			got.err = fmt.Errorf("the identity provider did not let you in: %q %q", reason, q.Get("error_description"))
			text = "You are not signed in. The terminal says why."
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = io.WriteString(w, text+"\n")
		select {
		case came <- got:
		default: // the first counts
		}
	})
	return mux
}

// Device signs a person in on another device: tell says where to go, and what to type there.
func (p *Provider) Device(ctx context.Context, tell func(uri, code string)) (Tokens, error) {
	ctx, s, err := p.open(ctx)
	if err != nil {
		return Tokens{}, err
	}
	if s.oauth.Endpoint.DeviceAuthURL == "" {
		return Tokens{}, errors.New("the identity provider lets nobody sign in on another device; leave --device out")
	}
	asked, err := s.oauth.DeviceAuth(ctx)
	if err != nil {
		return Tokens{}, fmt.Errorf("sign in: %w", short(err))
	}
	tell(asked.VerificationURI, asked.UserCode)
	token, err := s.oauth.DeviceAccessToken(ctx, asked)
	if err != nil {
		return Tokens{}, fmt.Errorf("sign in: %w", short(err))
	}
	return s.tokens(ctx, token, "")
}
