// Package signin lets a person sign in with an OpenID Connect provider, and keeps what he got: an ID token that the controller
// knows him by, and, where the provider gives one, what renews it.
//
// A browser on this host comes back to a port of the loopback address with a code (RFC 8252), which is worth nothing without
// the secret of this process (PKCE, RFC 7636); without a browser, the person types a code on another device (RFC 8628). The
// provider is reached by HTTPS alone. Start reading at Provider.Browser.
package signin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// A Provider is where people sign in, and as which client.
type Provider struct {
	Issuer, ClientID string
	ClientSecret     string   // "": this is a public client
	Scopes           []string // beside openid
	HTTP             *http.Client
}

// Tokens are what a person got. They are secrets.
type Tokens struct {
	IDToken string    `json:"idToken"`
	Refresh string    `json:"refreshToken,omitempty"`
	Expires time.Time `json:"expires"` // of the ID token
}

// A session is one conversation with the provider.
type session struct {
	oauth    oauth2.Config
	verifier *oidc.IDTokenVerifier
}

// open asks the provider where its parts are. The context that it returns is the one for all that follows.
func (p *Provider) open(ctx context.Context) (context.Context, *session, error) {
	u, err := url.Parse(p.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return ctx, nil, fmt.Errorf("the issuer must be a URL as https://login.example.com, is %q", p.Issuer)
	}
	if p.HTTP != nil {
		ctx = oidc.ClientContext(ctx, p.HTTP)
	}
	provider, err := oidc.NewProvider(ctx, p.Issuer)
	if err != nil {
		return ctx, nil, fmt.Errorf("reach the identity provider: %w", err)
	}
	endpoint := provider.Endpoint()
	for _, part := range []string{endpoint.AuthURL, endpoint.TokenURL, endpoint.DeviceAuthURL} {
		if u, err := url.Parse(part); part != "" && (err != nil || u.Scheme != "https") {
			return ctx, nil, fmt.Errorf("the identity provider names %q, which is not reached by https", part)
		}
	}
	if endpoint.AuthStyle, err = p.style(provider); err != nil {
		return ctx, nil, err
	}
	return ctx, &session{
		oauth: oauth2.Config{
			ClientID: p.ClientID, ClientSecret: p.ClientSecret, Endpoint: endpoint, Scopes: append([]string{oidc.ScopeOpenID}, p.Scopes...),
		},
		verifier: provider.VerifierContext(ctx, &oidc.Config{ClientID: p.ClientID}),
	}, nil
}

// style is how the client shows its secret. Where it was tried out, the first answer "not yet" to a device would count as a
// refusal of the style, and a code would be used up by the trial.
func (p *Provider) style(provider *oidc.Provider) (oauth2.AuthStyle, error) {
	if p.ClientSecret == "" {
		return oauth2.AuthStyleInParams, nil
	}
	var said struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err := provider.Claims(&said); err != nil {
		return 0, fmt.Errorf("the identity provider's description of itself: %w", err)
	}
	// OpenID Connect Discovery 1.0 §3: Basic where nothing is said.
	if len(said.Methods) > 0 && !slices.Contains(said.Methods, "client_secret_basic") {
		return oauth2.AuthStyleInParams, nil
	}
	return oauth2.AuthStyleInHeader, nil
}

// tokens takes the ID token out of an answer, and looks whether it is one. Without a nonce none is expected.
func (s *session) tokens(ctx context.Context, got *oauth2.Token, nonce string) (Tokens, error) {
	raw, _ := got.Extra("id_token").(string)
	if raw == "" {
		return Tokens{}, errors.New("the identity provider gave no ID token (is the scope openid allowed for this client?)")
	}
	checked, err := s.verifier.Verify(ctx, raw)
	if err != nil {
		return Tokens{}, fmt.Errorf("the ID token of the identity provider: %w", err)
	}
	if nonce != "" && checked.Nonce != nonce {
		return Tokens{}, errors.New("the ID token of the identity provider is of another sign-in")
	}
	return Tokens{IDToken: raw, Refresh: got.RefreshToken, Expires: checked.Expiry}, nil
}

// ErrSignIn says that only the person can go on.
var ErrSignIn = errors.New("sign in again with `sennit login`")

// Renew gets a new ID token without the person.
func (p *Provider) Renew(ctx context.Context, had Tokens) (Tokens, error) {
	if had.Refresh == "" {
		return Tokens{}, fmt.Errorf("the ID token has expired, and the provider gave nothing to renew it with: %w", ErrSignIn)
	}
	ctx, s, err := p.open(ctx)
	if err != nil {
		return Tokens{}, err
	}
	got, err := s.oauth.TokenSource(ctx, &oauth2.Token{RefreshToken: had.Refresh}).Token()
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.ErrorCode == "invalid_grant" {
		return Tokens{}, fmt.Errorf("the identity provider renews this sign-in no more: %w", ErrSignIn)
	}
	if err != nil {
		return Tokens{}, fmt.Errorf("renew the ID token: %w", short(err))
	}
	return s.tokens(ctx, got, "") // with what renewed it, where nothing new was given
}

// short is an error without the provider's whole answer, which may hold what was sent.
func short(err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		if refused.ErrorCode == "" {
			return fmt.Errorf("the identity provider answers %s", refused.Response.Status)
		}
		return fmt.Errorf("the identity provider says %s: %s", refused.ErrorCode, refused.ErrorDescription)
	}
	return err
}
