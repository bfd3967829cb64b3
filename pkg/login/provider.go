package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A provider is an issuer, as far as its configuration is known. It is read when somebody first signs in, and again after a
// while.
type provider struct {
	issuer string
	client *http.Client

	mu    *sync.Mutex
	known *endpoints
	next  time.Time // when it is read again
	err   error     // why nothing is known
}

// endpoints are where an issuer has people and their gateways go.
type endpoints struct {
	oauth2.Endpoint
	endSession string // empty: it has none
	revocation string // the same
}

const (
	// configurationLives is how long the configuration of an issuer is not read again.
	configurationLives = time.Hour
	// configurationAgain is how long one that could not be read is not asked for again.
	configurationAgain = 5 * time.Second
	maxIssuerBytes     = 256 << 10
)

func newProvider(issuer, bundle string) (provider, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if bundle != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(bundle)) {
			return provider{}, errors.New("caBundle holds no certificate")
		}
	}
	transport := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, MaxResponseHeaderBytes: 32 << 10, ForceAttemptHTTP2: true, IdleConnTimeout: 30 * time.Second, MaxIdleConns: 4}
	client := &http.Client{
		Transport: bounded{transport}, Timeout: issuerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // nobody is sent the secret
	}
	return provider{issuer: issuer, client: client, mu: new(sync.Mutex)}, nil
}

// bounded lets an answer be no longer than it may.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" {
		return nil, fmt.Errorf("%s is not encrypted", request.URL.Redacted())
	}
	response, err := b.next.RoundTrip(request)
	if err == nil {
		response.Body = limited{io.LimitReader(response.Body, maxIssuerBytes), response.Body}
	}
	return response, err
}

type limited struct {
	io.Reader
	io.Closer
}

// known is the configuration of the issuer.
func (l *Login) known(ctx context.Context) (*endpoints, error) {
	p := &l.provider
	if err := l.enter(); err != nil {
		return nil, err
	}
	defer l.leave()
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Before(p.next) {
		return p.known, p.err
	}
	// Whoever asks first reads for all others: that he goes away is no failure.
	ctx, cancel := context.WithTimeout(oidc.ClientContext(context.WithoutCancel(ctx), p.client), issuerTime)
	defer cancel()
	found, err := oidc.NewProvider(ctx, p.issuer)
	var more struct {
		EndSession string   `json:"end_session_endpoint"`
		Revocation string   `json:"revocation_endpoint"`
		Methods    []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err == nil {
		err = found.Claims(&more)
	}
	if err == nil {
		p.known, p.err, p.next = &endpoints{found.Endpoint(), more.EndSession, more.Revocation}, nil, time.Now().Add(configurationLives)
		// Tried out, it would use what is good once up. Basic where nothing is said (OpenID Connect Discovery 1.0 §3).
		p.known.AuthStyle = oauth2.AuthStyleInHeader
		if l.secret == "" || len(more.Methods) > 0 && !slices.Contains(more.Methods, "client_secret_basic") {
			p.known.AuthStyle = oauth2.AuthStyleInParams
		}
		return p.known, nil
	}
	p.next = time.Now().Add(configurationAgain)
	if p.known == nil { // else it stays as it was
		p.err = fmt.Errorf("read the configuration of issuer %s: %w", p.issuer, err)
	}
	return p.known, p.err
}

func (l *Login) enter() error {
	select {
	case l.slots <- struct{}{}:
		return nil
	default:
		return fmt.Errorf("%d wait for the issuer already", mostWaiting)
	}
}

func (l *Login) leave() { <-l.slots }

// config is how the gateway speaks to the issuer for a request.
func (l *Login) config(known *endpoints, req *exchange.Request) *oauth2.Config {
	return &oauth2.Config{
		ClientID: l.body.GetClientId(), ClientSecret: l.secret, Endpoint: known.Endpoint, Scopes: l.body.GetScopes(),
		RedirectURL: "https://" + req.Authority + l.body.GetCallbackPath(),
	}
}

// tokens are what an issuer gives: an ID token, and perhaps one to renew it with.
type tokens struct{ id, refresh string }

// An errRefused is an issuer's answer that asking again does not change.
type errRefused struct{ why string }

func (e errRefused) Error() string { return e.why }

// ask has the issuer give tokens for what it gave before.
func (l *Login) ask(ctx context.Context, give func(context.Context) (*oauth2.Token, error)) (tokens, error) {
	if err := l.enter(); err != nil {
		return tokens{}, err
	}
	defer l.leave()
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, l.provider.client), issuerTime)
	defer cancel()
	got, err := give(ctx)
	if failed := (*oauth2.RetrieveError)(nil); errors.As(err, &failed) {
		why := fmt.Sprintf("the issuer gives no tokens: %.64q", failed.ErrorCode) // what it says more may hold secrets
		if failed.ErrorCode == "invalid_grant" {
			return tokens{}, errRefused{why}
		}
		return tokens{}, errors.New(why)
	}
	if err != nil {
		return tokens{}, fmt.Errorf("ask the issuer for tokens: %w", err)
	}
	id, _ := got.Extra("id_token").(string)
	if id == "" {
		return tokens{}, errRefused{"the issuer gives no ID token: is scope openid among those that are asked for?"}
	}
	return tokens{id, got.RefreshToken}, nil
}

// revoke has the issuer take a refresh token back (RFC 7009), if it can be asked.
func (l *Login) revoke(ctx context.Context, known *endpoints, token string) {
	if l.enter() != nil {
		return
	}
	defer l.leave()
	form := url.Values{"token": {token}, "token_type_hint": {"refresh_token"}, "client_id": {l.body.GetClientId()}}
	if known.AuthStyle == oauth2.AuthStyleInParams && l.secret != "" {
		form.Set("client_secret", l.secret)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, known.revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if known.AuthStyle == oauth2.AuthStyleInHeader {
		request.SetBasicAuth(url.QueryEscape(l.body.GetClientId()), url.QueryEscape(l.secret)) // RFC 6749 §2.3.1
	}
	if response, err := l.provider.client.Do(request); err == nil {
		response.Body.Close()
	}
}
