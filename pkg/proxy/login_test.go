package proxy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/login"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A provider is one of OpenID Connect, over HTTPS, at which everybody is signed in as alice already.
type provider struct {
	*httptest.Server
	t  *testing.T
	by *issuer

	mu    sync.Mutex
	codes map[string]url.Values // what was asked for
	spoil func(claims map[string]any)
	lives time.Duration
	asked int // for tokens
	// renews: it gives refresh tokens, each good for once.
	renews bool
}

const clientSecret = "very secret"

func startProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{t: t, by: newIssuer(t), codes: map[string]url.Values{}, lives: time.Hour}
	mux := http.NewServeMux()
	p.Server = httptest.NewTLSServer(mux)
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	t.Cleanup(p.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"end_session_endpoint": p.URL + "/end?a=b", "id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("/authorize", p.authorize)
	mux.HandleFunc("/token", p.token)
	return p
}

func (p *provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("response_type") != "code" || q.Get("client_id") != "shop" || q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 ||
		len(q.Get("state")) < 40 || len(q.Get("nonce")) < 40 || !slices.Contains(strings.Fields(q.Get("scope")), "openid") {
		p.t.Errorf("asked for %v", q)
	}
	p.mu.Lock()
	code := fmt.Sprint("code-", len(p.codes))
	p.codes[code] = q
	p.mu.Unlock()
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {p.URL}}.Encode(), http.StatusFound)
}

func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	code := r.FormValue("code") + r.FormValue("refresh_token")
	asked, known := p.codes[code]
	delete(p.codes, code)
	id, secret, _ := r.BasicAuth()
	secret, _ = url.QueryUnescape(secret)
	challenge := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if r.FormValue("grant_type") == "refresh_token" {
		known = known && p.renews
	} else {
		known = known && r.FormValue("redirect_uri") == asked.Get("redirect_uri") && base64.RawURLEncoding.EncodeToString(challenge[:]) == asked.Get("code_challenge")
	}
	if !known || id != "shop" || secret != clientSecret {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"invalid_grant"}`)
		return
	}
	claims := map[string]any{"iss": p.URL, "sub": "alice", "aud": "shop", "exp": time.Now().Add(p.lives).Unix(), "nonce": asked.Get("nonce")}
	if p.spoil != nil {
		p.spoil(claims)
	}
	answer := map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": p.by.sign(p.t, claims)}
	if p.renews {
		answer["refresh_token"] = fmt.Sprint("refresh-", p.asked)
		p.codes[fmt.Sprint("refresh-", p.asked)] = asked
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// A portal is a gateway at which people sign in.
type portal struct {
	*pair
	*provider
	address string
	body    *snapshot.Authentication
}

// startPortal starts one for shop.example, whose service says what it heard. change spoils its policy.
func startPortal(t *testing.T, change func(*snapshot.Authentication)) *portal {
	t.Helper()
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Cache-Control", "public, max-age=60")
		w.Header().Set("CDN-Cache-Control", "max-age=60")
		w.Header().Set("Expires", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat))
		fmt.Fprintf(w, "%s %s cookies %q authorization %t", r.Header.Get("X-User"), r.RequestURI, r.Header.Get("Cookie"), r.Header.Get("Authorization") != "")
	})
	p := &portal{pair: startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process), provider: startProvider(t)}
	server := selfSigned(t, 1)
	p.outbound.Certificates = func(exchange.ServiceName, string) []*tls.Certificate { return []*tls.Certificate{server} }
	p.body = p.by.policy
	p.body.Issuers[0].Issuer = p.URL
	p.body.Login = &snapshot.Login{
		Issuer: p.URL, ClientId: "shop", Scopes: []string{"openid"}, CallbackPath: "/callback", LogoutPath: "/logout", Cookie: "sennit",
		SessionMs: uint64(time.Hour.Milliseconds()), CaBundle: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})),
	}
	if change != nil {
		change(p.body)
	}
	var key [32]byte
	l, err := login.New(p.body.Origin, p.body.Login, &snapshot.LoginSecrets{SessionKey: key[:], ClientSecret: clientSecret})
	if err != nil {
		t.Fatal(err)
	}
	p.outbound.Logins = func(_ exchange.ServiceName, policy string) *login.Login {
		if policy == p.body.Origin {
			return l
		}
		return nil
	}
	p.address = p.gateway(t)
	_, err = p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: []*snapshot.IngressListener{{
			Name: "https", Port: 80, Tls: &snapshot.IngressTLS{}, Hosts: []*snapshot.IngressHost{{Rules: []uint32{1, 0}}},
		}},
		Authentications: []*snapshot.Authentication{p.body},
		Rules: []*snapshot.Rule{
			{Origin: "httproute/shop/r#0/0", Authentication: 1, Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}},
			{
				Origin: "httproute/shop/r#1/0", Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}},
				Match: &snapshot.Match{Path: &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: "/open"}},
			},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A browser follows redirects and keeps cookies, unless it is told otherwise.
type browser struct {
	*http.Client
	p    *portal
	went []string // where it was led
}

func (p *portal) browser() *browser {
	jar, _ := cookiejar.New(nil)
	b := &browser{p: p}
	pool := p.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	transport := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		config := &tls.Config{RootCAs: pool, NextProtos: []string{"h2", "http/1.1"}, ServerName: "127.0.0.1"}
		if host, _, _ := net.SplitHostPort(address); strings.HasSuffix(host, ".example") {
			config.InsecureSkipVerify, config.ServerName, address = true, host, p.address
		}
		return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	}}
	p.t.Cleanup(transport.CloseIdleConnections)
	b.Client = &http.Client{Jar: jar, Transport: transport, Timeout: time.Minute, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		b.went = append(b.went, r.URL.Host+r.URL.Path)
		return nil
	}}
	return b
}

// get goes to a page, and returns the status and what stands there.
func (b *browser) get(address string, fields ...string) (*http.Response, string) {
	b.p.t.Helper()
	b.went = nil
	r, err := http.NewRequestWithContext(b.p.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		b.p.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html")
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	response, err := b.Do(r)
	if err != nil {
		b.p.t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response, string(body)
}

// stays has it follow nobody.
func (b *browser) stays() {
	b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
}

// TestSigningIn goes to a page, is led to the provider and back, stays signed in, and signs out.
func TestSigningIn(t *testing.T) {
	t.Parallel()
	p := startPortal(t, nil)
	b := p.browser()
	response, body := b.get("https://shop.example/cart?a=b", "X-User", "root", "Cookie", "mine=1")
	provider, _ := url.Parse(p.URL)
	if want := []string{provider.Host + "/authorize", "shop.example/callback", "shop.example/cart"}; response.StatusCode != 200 || !slices.Equal(b.went, want) {
		t.Fatalf("%s by way of %v: %s", response.Status, b.went, body)
	}
	if body != `alice /cart?a=b cookies "" authorization false` {
		t.Errorf("the service heard %s", body)
	}
	if response.ProtoMajor != 2 {
		t.Errorf("by %s", response.Proto)
	}
	if response, body = b.get("https://shop.example/again", "Accept", "*/*", "Cookie", "mine=1"); response.StatusCode != 200 || len(b.went) != 0 || body != `alice /again cookies "mine=1" authorization false` {
		t.Errorf("%s by way of %v: %s", response.Status, b.went, body)
	}
	if p.asked != 1 {
		t.Errorf("the provider was asked %d times", p.asked)
	}
	at, _ := url.Parse("https://shop.example/")
	for _, c := range b.Jar.Cookies(at) {
		if !strings.HasPrefix(c.Name, "__Host-sennit") || strings.Contains(c.Value, ".") {
			t.Errorf("the browser keeps %s", c)
		}
	}
	b.stays()
	response, _ = b.get("https://shop.example/logout")
	if to := response.Header.Get("Location"); response.StatusCode != 302 || to != p.URL+"/end?a=b&client_id=shop" {
		t.Errorf("%s to %s", response.Status, to)
	}
	if left := b.Jar.Cookies(at); len(left) != 0 {
		t.Errorf("signed out, the browser keeps %v", left)
	}
	if response, _ = b.get("https://shop.example/"); response.StatusCode != 302 || !strings.HasPrefix(response.Header.Get("Location"), p.URL+"/authorize?") {
		t.Errorf("signed out: %s", response.Status)
	}
	for _, seen := range p.observed(6) {
		if strings.Contains(seen.Path, "code=") || strings.Contains(seen.Path, "state=") {
			t.Errorf("what the provider said is told: %s", seen.Path)
		}
	}
}

// TestWhoIsLedToTheProvider: pages that a browser goes to, and nothing else.
func TestWhoIsLedToTheProvider(t *testing.T) {
	t.Parallel()
	p := startPortal(t, nil)
	b := p.browser()
	b.stays()
	for _, tt := range []struct {
		name, method string
		fields       []string
		status       int
	}{
		{"a page", "GET", nil, 302},
		{"a page, says the browser", "GET", []string{"Sec-Fetch-Mode", "navigate", "Accept", "*/*"}, 302},
		{"what a script loads", "GET", []string{"Sec-Fetch-Mode", "cors"}, 401},
		{"a picture", "GET", []string{"Accept", "image/png"}, 401},
		{"a form", "POST", nil, 401},
		{"a bad token", "GET", []string{"Authorization", "Bearer x"}, 401},
		{"a session that nobody made", "GET", []string{"Cookie", "__Host-sennit=AAAA"}, 302},
	} {
		r, _ := http.NewRequestWithContext(t.Context(), tt.method, "https://shop.example/x", nil)
		r.Header.Set("Accept", "text/html")
		for i := 0; i < len(tt.fields); i += 2 {
			r.Header.Set(tt.fields[i], tt.fields[i+1])
		}
		response, err := b.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != tt.status {
			t.Errorf("%s: %s", tt.name, response.Status)
		}
		cookie := response.Header.Get("Set-Cookie")
		if tt.status == 302 && (!strings.HasPrefix(cookie, "__Secure-sennit-login-") || !strings.HasSuffix(cookie, "; Path=/callback; Max-Age=600; Secure; HttpOnly; SameSite=Lax") || response.Header.Get("Cache-Control") != "no-store") {
			t.Errorf("%s: cookie %s", tt.name, cookie)
		}
		if tt.status == 401 && cookie != "" {
			t.Errorf("%s: cookie %s", tt.name, cookie)
		}
	}
	good := p.by.sign(t, map[string]any{"iss": p.URL, "sub": "bob", "aud": "shop", "exp": time.Now().Add(time.Minute).Unix()})
	if response, body := b.get("https://shop.example/", "Authorization", "Bearer "+good); response.StatusCode != 200 || !strings.HasPrefix(body, "bob ") {
		t.Errorf("a token of its own: %s %s", response.Status, body)
	}
}

// TestNobodyIsLedElsewhere has somebody come with paths that browsers take for other hosts.
func TestNobodyIsLedElsewhere(t *testing.T) {
	t.Parallel()
	p := startPortal(t, nil)
	for _, path := range []string{"//evil.example/", "/%5Cevil.example/", "/@evil.example", "/.evil.example", "/" + strings.Repeat("x", 2000)} {
		b := p.browser()
		b.stays()
		response, _ := b.get("https://shop.example" + path)
		response, _ = b.get(response.Header.Get("Location")) // the provider's
		back := response.Header.Get("Location")
		response, body := b.get(back)
		to, err := url.Parse(response.Header.Get("Location"))
		if err != nil || response.StatusCode != 302 || to.Scheme != "https" || to.Host != "shop.example" {
			t.Errorf("%s: %s to %v, %s", path, response.Status, to, body)
		}
	}
}

// TestAnswersOfNobody has callbacks that no provider made for this browser.
func TestAnswersOfNobody(t *testing.T) {
	t.Parallel()
	p := startPortal(t, nil)
	begin := func() (b *browser, back *url.URL) {
		b = p.browser()
		b.stays()
		response, _ := b.get("https://shop.example/")
		response, _ = b.get(response.Header.Get("Location"))
		back, err := url.Parse(response.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		return b, back
	}
	refused := func(name string, b *browser, back *url.URL) {
		t.Helper()
		response, _ := b.get(back.String())
		if response.StatusCode == 302 || slices.ContainsFunc(response.Cookies(), func(c *http.Cookie) bool { return strings.HasPrefix(c.Name, "__Host-") && c.Value != "" }) {
			t.Errorf("%s: %s, %v", name, response.Status, response.Header)
		}
		if location := response.Header.Get("Location"); location != "" {
			t.Errorf("%s: led to %s", name, location)
		}
	}
	with := func(u *url.URL, change func(url.Values)) *url.URL {
		q := u.Query()
		change(q)
		changed := *u
		changed.RawQuery = q.Encode()
		return &changed
	}
	_, foreign := begin() // of another browser
	b, back := begin()
	refused("an attempt of another browser", b, foreign)
	refused("no state", b, with(back, func(q url.Values) { q.Del("state") }))
	refused("another state", b, with(back, func(q url.Values) { q.Set("state", q.Get("state")[:12]+strings.Repeat("x", 31)) }))
	refused("two states", b, with(back, func(q url.Values) { q.Add("state", q.Get("state")) }))
	refused("no code", b, with(back, func(q url.Values) { q.Del("code") }))
	b, back = begin()
	refused("the code of another", b, with(back, func(q url.Values) { q.Set("code", foreign.Query().Get("code")) }))
	b, back = begin()
	refused("another issuer's", b, with(back, func(q url.Values) { q.Set("iss", "https://evil.example") }))
	b, back = begin()
	refused("an error", b, with(back, func(q url.Values) { q.Set("error", "access_denied\r\nX: y") }))

	// The cookie of an attempt is none of a session, and that of another host's gateway neither.
	b, back = begin()
	attempt := b.Jar.Cookies(back)
	b = p.browser()
	b.stays()
	if response, _ := b.get("https://shop.example/", "Cookie", "__Host-sennit="+attempt[0].Value); response.StatusCode != 302 {
		t.Errorf("an attempt in the place of a session: %s", response.Status)
	}
	b, back = begin()
	if response, _ := b.get(back.String()); response.StatusCode != 302 {
		t.Fatalf("%s", response.Status)
	}
	refused("a second time", b, back)
	session := b.Jar.Cookies(&url.URL{Scheme: "https", Host: "shop.example", Path: "/"})[0].Value
	b = p.browser()
	b.stays()
	for name, cookies := range map[string]string{
		"one bit is another": "__Host-sennit=" + session[:50] + map[bool]string{true: "B", false: "A"}[session[50] == 'A'] + session[51:],
		"cut off":            "__Host-sennit=" + session[:len(session)-4],
		"twice":              "__Host-sennit=" + session + "; __Host-sennit=" + session,
		"by another name":    "sennit=" + session,
	} {
		if response, _ := b.get("https://shop.example/", "Cookie", cookies); response.StatusCode != 302 {
			t.Errorf("a session that is %s: %s", name, response.Status)
		}
	}
	if response, _ := b.get("https://shop.example/", "Cookie", "__Host-sennit="+session); response.StatusCode != 200 {
		t.Errorf("the session itself: %s", response.Status)
	}
}

// TestIDTokensThatAreNone has a provider whose tokens are not what was asked for.
func TestIDTokensThatAreNone(t *testing.T) {
	t.Parallel()
	p := startPortal(t, func(body *snapshot.Authentication) { body.Issuers[0].Audiences = []string{"shop", "bank"} })
	for name, spoil := range map[string]func(map[string]any){
		"another attempt's":   func(c map[string]any) { c["nonce"] = "x" },
		"of no attempt":       func(c map[string]any) { delete(c, "nonce") },
		"another client's":    func(c map[string]any) { c["aud"] = "bank" },
		"of several parties":  func(c map[string]any) { c["aud"] = []string{"shop", "bank"} },
		"of another party":    func(c map[string]any) { c["azp"] = "bank" },
		"another issuer's":    func(c map[string]any) { c["iss"] = "https://id.example" },
		"expired":             func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() },
		"nobody's":            func(c map[string]any) { delete(c, "sub") },
		"larger than cookies": func(c map[string]any) { c["x"] = strings.Repeat("x", 12<<10) },
	} {
		p.provider.mu.Lock()
		p.provider.spoil = spoil
		p.provider.mu.Unlock()
		b := p.browser()
		response, body := b.get("https://shop.example/")
		if response.StatusCode != 403 || response.Header.Get("Sennit-Reason") != "unauthenticated" {
			t.Errorf("%s: %s %s", name, response.Status, body)
		}
	}
	p.provider.mu.Lock()
	p.provider.spoil = func(c map[string]any) { c["x"] = strings.Repeat("x", 6<<10) } // in several cookies
	p.provider.mu.Unlock()
	b := p.browser()
	for range 2 {
		if response, body := b.get("https://shop.example/"); response.StatusCode != 200 || !strings.HasPrefix(body, "alice / cookies \"\"") {
			t.Errorf("a large one: %s %s", response.Status, body)
		}
	}
}

// TestSessionsEnd with their ID token, and with the time that the policy gives them.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*portal){
		"the ID token": func(p *portal) { p.lives = 2 * time.Second },
		"the policy":   func(p *portal) { p.body.Login.SessionMs = 2000 },
	} {
		p := startPortal(t, nil)
		p.provider.mu.Lock()
		change(p)
		p.provider.mu.Unlock()
		b := p.browser()
		if response, body := b.get("https://shop.example/"); response.StatusCode != 200 {
			t.Fatalf("%s: %s %s", name, response.Status, body)
		}
		var sealed *http.Cookie
		for sealed == nil { // a browser that was kept from looking for as long as the cookie lives has none
			if cookies := b.Jar.Cookies(&url.URL{Scheme: "https", Host: "shop.example", Path: "/"}); len(cookies) > 0 {
				sealed = cookies[0]
			} else if response, body := b.get("https://shop.example/"); response.StatusCode != 200 {
				t.Fatalf("%s, again: %s %s", name, response.Status, body)
			}
		}
		for deadline := time.Now().Add(time.Minute); ; {
			b = p.browser()
			b.stays()
			if response, _ := b.get("https://shop.example/", "Cookie", sealed.Name+"="+sealed.Value); response.StatusCode == 302 {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s ended, and the session did not", name)
				break
			}
		}
	}
}

// TestSessionsAreRenewed while the issuer lets them be, and what takes them to the browser is kept by no cache.
func TestSessionsAreRenewed(t *testing.T) {
	t.Parallel()
	p := startPortal(t, nil)
	p.provider.mu.Lock()
	p.renews, p.lives = true, 2*time.Second
	p.provider.mu.Unlock()
	b := p.browser()
	if response, body := b.get("https://shop.example/"); response.StatusCode != 200 {
		t.Fatalf("%s %s", response.Status, body)
	}
	renewed, same := 0, 0
	for deadline := time.Now().Add(time.Minute); renewed < 2 || same == 0; {
		response, body := b.get("https://shop.example/")
		if response.StatusCode != 200 || !strings.HasPrefix(body, `alice / cookies ""`) || len(b.went) > 0 {
			t.Fatalf("%s by way of %v: %s", response.Status, b.went, body)
		}
		if time.Now().After(deadline) {
			t.Fatal("it is not renewed")
		}
		if len(response.Cookies()) == 0 {
			if same++; response.Header.Get("Cache-Control") != "public, max-age=60" {
				t.Errorf("nothing is renewed, and caches are told %v", response.Header)
			}
			continue
		}
		renewed++
		if got := response.Header.Values("Cache-Control"); len(got) != 1 || got[0] != "no-store" || response.Header.Get("Expires") != "" || response.Header.Get("CDN-Cache-Control") != "" {
			t.Errorf("a cache may keep it: %v", response.Header)
		}
	}
	// Whoever else uses the connection gets nothing of it.
	conn, err := tls.Dial("tcp", p.address, &tls.Config{InsecureSkipVerify: true, ServerName: "shop.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	ask := func(path string) *http.Response {
		t.Helper()
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://shop.example"+path, nil)
		for _, cookie := range b.Jar.Cookies(r.URL) {
			r.AddCookie(cookie)
		}
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(reader, r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		return response
	}
	for deadline := time.Now().Add(time.Minute); len(ask("/").Cookies()) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("it is not renewed over HTTP/1.1")
		}
	}
	if got := ask("/open"); got.StatusCode != 200 || len(got.Cookies()) > 0 {
		t.Errorf("the next request on the connection: %s, cookies %v", got.Status, got.Cookies())
	}
	// What the gateway itself answers takes them too.
	for deadline := time.Now().Add(time.Minute); ; {
		response, _ := b.get("https://shop.example/broken")
		if response.StatusCode != 502 || time.Now().After(deadline) {
			t.Fatalf("%s with %v", response.Status, response.Header)
		}
		if len(response.Cookies()) > 0 {
			break
		}
	}
	p.provider.mu.Lock()
	p.renews = false
	p.provider.mu.Unlock()
	b.stays()
	for deadline := time.Now().Add(time.Minute); ; {
		if response, _ := b.get("https://shop.example/"); response.StatusCode == 302 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it goes on, though the issuer renews no more")
		}
	}
}

// TestSigningInNeedsTLS: without it nobody is led anywhere, and no cookie counts.
func TestSigningInNeedsTLS(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, startProcess(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	one := newIssuer(t)
	one.policy.Login = &snapshot.Login{Issuer: "https://id.example", ClientId: "shop", CallbackPath: "/callback", LogoutPath: "/logout", Cookie: "sennit"}
	address := p.gateway(t)
	p.outbound.Logins = func(exchange.ServiceName, string) *login.Login { t.Error("asked how to sign in"); return nil }
	_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners:       []*snapshot.IngressListener{{Name: "http", Port: 80, Hosts: []*snapshot.IngressHost{{Rules: []uint32{0}}}}},
		Authentications: []*snapshot.Authentication{one.policy},
		Rules:           []*snapshot.Rule{{Origin: "httproute/shop/r#0/0", Authentication: 1, Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := raw(t, address, "GET / HTTP/1.1\r\nHost: shop.example\r\nAccept: text/html\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 401 ") || reached.Load() > 0 {
		t.Errorf("%q", got)
	}
}

// TestTheIDTokenIsPassedOn where the policy says so, and to nobody but the service.
func TestTheIDTokenIsPassedOn(t *testing.T) {
	t.Parallel()
	p := startPortal(t, func(body *snapshot.Authentication) { body.Login.Forward = true })
	if response, body := p.browser().get("https://shop.example/"); response.StatusCode != 200 || body != `alice / cookies "" authorization true` {
		t.Errorf("%s %s", response.Status, body)
	}
}

// TestProvidersThatAreAway: nobody waits for one, and nothing is let in.
func TestProvidersThatAreAway(t *testing.T) {
	t.Parallel()
	p := startPortal(t, nil)
	p.Close()
	b := p.browser()
	if response, _ := b.get("https://shop.example/"); response.StatusCode != 503 || response.Header.Get("Retry-After") == "" {
		t.Errorf("%s", response.Status)
	}
}
