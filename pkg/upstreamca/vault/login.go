package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// endTime bounds giving a token back, which nothing waits for but a caller that has its answer.
const endTime = 5 * time.Second

// A session is what Vault lets in by one token.
type session struct {
	a     *Authority
	token string
	// ours is whether the token was given by a login of ours, and ends with the session. One of a file is kept alive.
	ours bool
}

// login proves who asks.
func (a *Authority) login(ctx context.Context) (*session, error) {
	switch {
	case a.cfg.AppRole != nil:
		role, err := upstreamca.ReadSecret(a.cfg.AppRole.RoleIDFile)
		if err != nil {
			return nil, fmt.Errorf("roleIDFile: %w", err)
		}
		secret, err := upstreamca.ReadSecret(a.cfg.AppRole.SecretIDFile)
		if err != nil {
			return nil, fmt.Errorf("secretIDFile: %w", err)
		}
		return a.begin(ctx, or(a.cfg.AppRole.Mount, "approle"), map[string]string{"role_id": string(role), "secret_id": string(secret)},
			"a secret ID ends by its TTL and number of uses: write another with `vault write -f auth/%s/role/ROLE/secret-id`", string(role), string(secret))
	case a.cfg.Certificate != nil:
		body := map[string]string{}
		if a.cfg.Certificate.Role != "" {
			body["name"] = a.cfg.Certificate.Role
		}
		return a.begin(ctx, or(a.cfg.Certificate.Mount, "cert"), body, "a role of auth/%s must name the authority of certFile")
	}
	token, err := upstreamca.ReadSecret(a.cfg.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("tokenFile: %w", err)
	}
	return &session{a: a, token: string(token)}, nil
}

// begin asks a mount of logins for a token. remedy says what to do about a no, and has the mount's name put in.
func (a *Authority) begin(ctx context.Context, mount string, body map[string]string, remedy string, secrets ...string) (*session, error) {
	got, err := a.ask(ctx, "", "auth/"+mount+"/login", body, secrets...)
	var no *refused
	switch {
	case errors.As(err, &no) && no.status == http.StatusNotFound:
		return nil, fmt.Errorf("log in: %w (is that login enabled at auth/%s, in this namespace?)", err, mount)
	case errors.As(err, &no):
		return nil, fmt.Errorf("log in: %w (%s)", err, fmt.Sprintf(remedy, mount))
	case err != nil:
		return nil, fmt.Errorf("log in: %w", err)
	case got.Auth == nil || got.Auth.Token == "":
		return nil, fmt.Errorf("%w: log in at auth/%s: it gives no token (is a second factor asked for?)", upstreamca.ErrAnswer, mount)
	}
	return &session{a: a, token: got.Auth.Token, ours: true}, nil
}

// post asks something, and reads the data of the answer.
func (s *session) post(ctx context.Context, path string, body, into any) error {
	got, err := s.a.ask(ctx, s.token, path, body)
	var no *refused
	switch {
	case errors.As(err, &no) && no.status == http.StatusForbidden:
		lacks := "its policies lack"
		if !s.ours {
			lacks = "the token of tokenFile has ended, or " + lacks
		}
		return fmt.Errorf("%w (%s: path %q { capabilities = [\"create\", \"update\"] })", err, lacks, path)
	case errors.As(err, &no) && no.status == http.StatusNotFound:
		return fmt.Errorf("%w (is the PKI engine at %q, in this namespace?)", err, s.a.cfg.Mount)
	case err != nil:
		return err
	}
	if err := json.Unmarshal(got.Data, into); err != nil {
		return fmt.Errorf("%w: POST /v1/%s: data: it is not what was asked for", upstreamca.ErrAnswer, path)
	}
	return nil
}

// end gives back the token of a login; one of a file is renewed in its place, as far as it can be. Neither changes what was
// asked: a token that was not given back ends by its TTL, and one that was not renewed is refused when it is used next.
func (s *session) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if s.ours {
		_, _ = s.a.ask(ctx, s.token, "auth/token/revoke-self", struct{}{})
		return
	}
	_, _ = s.a.ask(ctx, s.token, "auth/token/renew-self", struct{}{})
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
