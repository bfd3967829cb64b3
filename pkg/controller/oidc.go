package controller

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/apiserver/idtoken"
)

// OIDCConfig says whose ID tokens operators may show. Prefixes keep the provider's users and groups apart from those of tokens.
type OIDCConfig struct {
	Issuer, ClientID              string
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	CAFile                        string // that the provider's certificate must chain to, PEM; "": the system's roots
}

func (o *OIDCConfig) flags(flags *flag.FlagSet) {
	flags.StringVar(&o.Issuer, "oidc-issuer", "", "OpenID Connect provider whose ID tokens operators may show, as https://login.example.com. Empty is none")
	flags.StringVar(&o.ClientID, "oidc-client-id", "", "client that ID tokens must be for")
	flags.StringVar(&o.UsernameClaim, "oidc-username-claim", "sub", "claim that names the operator")
	flags.StringVar(&o.UsernamePrefix, "oidc-username-prefix", "oidc:", "what the operator's name begins with, before the claim")
	flags.StringVar(&o.GroupsClaim, "oidc-groups-claim", "groups", "claim that names the operator's groups, a string or a list. Empty is none")
	flags.StringVar(&o.GroupsPrefix, "oidc-groups-prefix", "oidc:", "what the groups' names begin with, before the claim")
	flags.StringVar(&o.CAFile, "oidc-ca-file", "", "file of certificates (PEM) that the provider's must chain to (default: the system's)")
}

// verifier returns what recognises people; nil where there is no provider.
func (o *OIDCConfig) verifier(now func() time.Time, log *slog.Logger) (*idtoken.Verifier, error) {
	if o.Issuer == "" {
		if o.ClientID != "" || o.CAFile != "" {
			return nil, errors.New("--oidc-client-id and --oidc-ca-file are for --oidc-issuer, which is not given")
		}
		return nil, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--oidc-ca-file: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--oidc-ca-file: %s holds no certificate in PEM", o.CAFile)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	v, err := idtoken.New(idtoken.Config{
		Issuer: o.Issuer, ClientID: o.ClientID, UsernameClaim: o.UsernameClaim, UsernamePrefix: o.UsernamePrefix,
		GroupsClaim: o.GroupsClaim, GroupsPrefix: o.GroupsPrefix, Client: &http.Client{Transport: transport}, Now: now, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("--oidc-issuer: %w", err)
	}
	return v, nil
}

// authenticate returns whom a bearer token stands for: an operator's token, or an ID token of the provider.
func (c *Controller) authenticate(ctx context.Context, token string) (apiserver.Identity, error) {
	if c.people == nil || strings.HasPrefix(token, tokenPrefix) {
		return c.operators.authenticate(ctx, token)
	}
	p, err := c.people.Identify(ctx, token)
	if errors.Is(err, idtoken.ErrNotOurs) {
		return apiserver.Identity{}, errTokenRefused
	}
	if err != nil {
		return apiserver.Identity{}, err
	}
	return apiserver.Identity{User: p.User, Groups: p.Groups, Token: "id " + p.Token, Expires: p.Expires}, nil
}
