package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// An Application is a process of another user on a node's host that takes its SVIDs by go-spiffe. It serves and makes calls
// with mutual TLS, past the node.
type Application struct {
	m       *Mesh
	Serves  string // address of its TLS
	control string
}

// Application starts one as a user; endpoint is that of the Workload API.
func (m *Mesh) Application(name string, uid int, endpoint string) *Application {
	m.t.Helper()
	if os.Getuid() != 0 {
		m.t.Skip("needs root: a process becomes another user")
	}
	a := &Application{m, fmt.Sprintf("127.0.0.1:%d", m.port()), fmt.Sprintf("127.0.0.1:%d", m.port())}
	_, err := m.Run(name, m.self, "application", strconv.Itoa(uid), endpoint, a.control, a.Serves)
	m.must("start "+name, err)
	m.Eventually(name+" answers", func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", a.control)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return a
}

// Ask has the application do something, and returns what came of it. What takes long is given up by ctx.
func (a *Application) Ask(ctx context.Context, what string, arguments ...string) (string, error) {
	query := url.Values{"a": arguments}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.control+"/"+what+"?"+query.Encode(), nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(string(text))
	}
	return string(text), err
}

// MustAsk is Ask, and ends the test where that fails.
func (a *Application) MustAsk(t testing.TB, what string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), ready)
	defer cancel()
	got, err := a.Ask(ctx, what, arguments...)
	if err != nil {
		t.Fatalf("%s %q: %v", what, arguments, err)
	}
	return got
}

// application is the process of an Application.
type application struct {
	endpoint workloadapi.ClientOption

	mu     sync.Mutex
	source *workloadapi.X509Source // nil: not asked for yet
	tokens *workloadapi.JWTSource
}

// runApplication becomes a user, and does what is asked at a control address.
func runApplication(ctx context.Context, args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := syscall.Setuid(uid); err != nil {
		return err
	}
	a := &application{endpoint: workloadapi.WithAddr(args[1])}
	served := &http.Server{Addr: args[3], ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].URIs[0])
	})}
	serve := sync.OnceValue(func() error {
		source, err := a.x509(ctx)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", args[3])
		if err != nil {
			return err
		}
		go served.Serve(tls.NewListener(l, tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeAny())))
		return nil
	})
	does := map[string]func(context.Context, []string) (string, error){
		"id": a.id, "call": a.call, "token": a.token, "validate": a.validate, "domains": a.domains,
		"serve": func(context.Context, []string) (string, error) { return "", serve() },
	}
	control := &http.Server{Addr: args[2], ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := does[r.URL.Path[1:]](r.Context(), r.URL.Query()["a"])
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, got)
	})}
	stop := context.AfterFunc(ctx, func() { control.Close(); served.Close() })
	defer stop()
	if err := control.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// x509 returns the source of certificates, which waits for the first one.
func (a *application) x509(ctx context.Context) (*workloadapi.X509Source, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.source != nil {
		return a.source, nil
	}
	// One answer first: a source asks again for as long as it is refused.
	if _, err := workloadapi.FetchX509SVID(ctx, a.endpoint); err != nil {
		return nil, err
	}
	var err error
	a.source, err = workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(a.endpoint))
	return a.source, err
}

// id is the SPIFFE ID and the serial number of the newest certificate, of which the one named is not it any more.
func (a *application) id(ctx context.Context, not []string) (string, error) {
	source, err := a.x509(context.WithoutCancel(ctx))
	if err != nil {
		return "", err
	}
	for {
		updated := source.Updated()
		svid, err := source.GetX509SVID()
		if err != nil {
			return "", err
		}
		if now := svid.ID.String() + " " + svid.Certificates[0].SerialNumber.Text(16); len(not) == 0 || now != not[0] {
			return now, nil
		}
		select {
		case <-updated:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// call asks another application, by address and SPIFFE ID, whom it takes this one for.
func (a *application) call(ctx context.Context, to []string) (string, error) {
	source, err := a.x509(context.WithoutCancel(ctx))
	if err != nil {
		return "", err
	}
	id, err := spiffeid.FromString(to[1])
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id))}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+to[0]+"/", nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

func (a *application) jwt(ctx context.Context) (*workloadapi.JWTSource, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tokens != nil {
		return a.tokens, nil
	}
	var err error
	a.tokens, err = workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(a.endpoint))
	return a.tokens, err
}

// token is a JWT-SVID for an audience.
func (a *application) token(ctx context.Context, audience []string) (string, error) {
	svid, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience[0]}, a.endpoint)
	if err != nil {
		return "", err
	}
	return svid.Marshal(), nil
}

// validate says whose a token for an audience is, by the bundle of a source and by the node alike.
func (a *application) validate(ctx context.Context, args []string) (string, error) {
	source, err := a.jwt(context.WithoutCancel(ctx))
	if err != nil {
		return "", err
	}
	svid, err := jwtsvid.ParseAndValidate(args[1], source, args[:1])
	if err != nil {
		return "", err
	}
	byNode, err := workloadapi.ValidateJWTSVID(ctx, args[1], args[0], a.endpoint)
	if err != nil {
		return "", err
	}
	if byNode.ID != svid.ID {
		return "", fmt.Errorf("the node says %s, the bundle %s", byNode.ID, svid.ID)
	}
	return svid.ID.String(), nil
}

// domains are the trust domains that the application may believe, and how many roots and keys of each.
func (a *application) domains(ctx context.Context, _ []string) (string, error) {
	x509s, err := workloadapi.FetchX509Context(ctx, a.endpoint)
	if err != nil {
		return "", err
	}
	jwts, err := workloadapi.FetchJWTBundles(ctx, a.endpoint)
	if err != nil {
		return "", err
	}
	var all []string
	for _, b := range x509s.Bundles.Bundles() {
		keys, _ := jwts.Get(b.TrustDomain())
		n := 0
		if keys != nil {
			n = len(keys.JWTAuthorities())
		}
		all = append(all, fmt.Sprintf("%s %d %d", b.TrustDomain(), len(b.X509Authorities()), n))
	}
	return strings.Join(all, "\n"), nil
}
