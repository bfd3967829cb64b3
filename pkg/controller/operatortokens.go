package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/audit"
)

// operatorTokens shows operators' tokens as documents, and makes them. Who may make them may do whatever any operator may.
type operatorTokens struct{ c *Controller }

// Changed returns a channel that is closed when a token is made or taken back.
func (d operatorTokens) Changed() <-chan struct{} { return d.c.operators.bell.Changed() }

// List returns the tokens, without what makes them tokens.
func (d operatorTokens) List(ctx context.Context) ([]*unstructured.Unstructured, uint64, error) {
	tokens, version, err := d.c.operators.list(ctx)
	if err != nil {
		return nil, 0, err
	}
	all := make([]*unstructured.Unstructured, 0, len(tokens))
	for _, t := range tokens {
		u, err := api.From(api.OperatorTokens, t.document())
		if err != nil {
			return nil, 0, err
		}
		all = append(all, u)
	}
	return all, version, nil
}

func (t *operatorToken) document() *api.OperatorToken {
	expires := metav1.NewTime(t.Expires)
	return &api.OperatorToken{
		ObjectMeta: metav1.ObjectMeta{Name: t.id, UID: types.UID(t.id), CreationTimestamp: metav1.NewTime(t.Made)},
		Spec:       api.OperatorTokenSpec{Operator: t.User, Groups: t.Groups},
		Status:     api.OperatorTokenStatus{Expires: &expires, MadeBy: t.By},
	}
}

// Create makes a token and shows it this once, with a kubeconfig where there is an API over TLS.
func (d operatorTokens) Create(ctx context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	var asked api.OperatorToken
	if err := api.As(u, &asked); err != nil {
		return nil, err
	}
	ttl := defaultTokenTTL
	if asked.Spec.TTL != nil {
		ttl = asked.Spec.TTL.Duration
	}
	if ttl > maxTokenTTL {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.ttl: must be at most %s", maxTokenTTL))
	}
	by, _ := apiserver.CallerOf(ctx)
	t, token, err := d.c.operators.create(ctx, asked.Spec.Operator, asked.Spec.Groups, by.User, ttl)
	if err != nil {
		return nil, err
	}
	made := t.document()
	made.Status.Token = token
	if config, err := d.c.kubeconfigWith(token); err == nil {
		made.Status.Kubeconfig = string(config)
	}
	return api.From(api.OperatorTokens, made)
}

// Delete takes a token back: its holder is refused from then on.
func (d operatorTokens) Delete(ctx context.Context, _, name string) error {
	err := d.c.operators.revoke(ctx, name)
	if errors.Is(err, errNoSuchToken) {
		return apierrors.NewNotFound(api.OperatorTokens.GroupResource(), name)
	}
	return err
}

var errNoTLS = errors.New("this controller has no API over TLS (start it with --api ADDRESS:PORT)")

// kubeconfigWith makes a kubeconfig for a token.
func (c *Controller) kubeconfigWith(token string) ([]byte, error) {
	address := c.apiAddress.Load()
	if address == nil {
		return nil, errNoTLS
	}
	server := "https://" + net.JoinHostPort(c.cfg.hosts()[0], strconv.Itoa(int(address.Port())))
	return apiserver.Kubeconfig(c.cfg.Cluster, server, c.authority.RootPEM(), token)
}

// kubeconfigTTL is how long a token of a kubeconfig is good where nothing else is asked for.
const kubeconfigTTL = 30 * 24 * time.Hour

// kubeconfig makes a new token that may everything, and all that is needed to use it. It is for the socket alone, which is
// how the first operator gets in.
func (c *Controller) kubeconfig(w http.ResponseWriter, r *http.Request) {
	if r.TLS != nil {
		socket.WriteFailure(w, http.StatusForbidden, errors.New("kubeconfigs are made on the controller's host, over its unix socket; `sennit operator token` makes tokens from elsewhere"))
		return
	}
	if c.apiAddress.Load() == nil {
		socket.WriteFailure(w, http.StatusServiceUnavailable, errNoTLS)
		return
	}
	ttl := kubeconfigTTL
	if text := r.URL.Query().Get("expires"); text != "" {
		var err error
		if ttl, err = time.ParseDuration(text); err != nil || ttl <= 0 || ttl > maxTokenTTL {
			socket.WriteFailure(w, http.StatusBadRequest, fmt.Errorf("expires must be a duration of more than 0 and at most %s, is %q", maxTokenTTL, text))
			return
		}
	}
	var token string
	event := &audit.Event{Kind: audit.Issuance, Verb: "kubeconfig", Resource: api.OperatorTokens.GroupResource().String()}
	err := c.recorder.act(r, event, func() error {
		by, _ := apiserver.CallerOf(r.Context())
		made, text, err := c.operators.create(r.Context(), by.User, []string{rbac.Masters}, by.User, ttl)
		if err == nil {
			token, event.Detail = text, "token "+made.id
		}
		return err
	})
	var config []byte
	if err == nil {
		config, err = c.kubeconfigWith(token)
	}
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(config) // the caller has gone
}

// auditedToken is what the audit says of a token that is made or taken back.
func auditedToken(u *unstructured.Unstructured) string {
	var t api.OperatorToken
	if api.As(u, &t) != nil {
		return ""
	}
	text := "for operator " + t.Spec.Operator
	if len(t.Spec.Groups) > 0 {
		text += " of " + strings.Join(t.Spec.Groups, ", ")
	}
	return text
}
