package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	maxAnswer  = 256 << 20 // bytes of an answer that is read whole
	maxFailure = 1 << 20
)

// A request is what to ask of a server.
type request struct {
	method, path string
	query        url.Values
	accept       string // application/json where empty
	contentType  string // of body
	body         []byte
}

// do sends a request and returns its answer, whose body the caller closes, where it is a success.
func (c *conn) do(ctx context.Context, r request) (*http.Response, error) {
	address := c.base + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("ask the %s: %w", c.who, err)
	}
	req.Header.Set("User-Agent", "sennit")
	req.Header.Set("Accept", "application/json")
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	token := c.token
	if c.plugin != nil {
		if token, err = c.plugin.token(ctx); err != nil {
			return nil, err
		}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.failure(res)
}

// An answer is a success, read whole.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// whole sends a request and reads all of its answer.
func (c *conn) whole(ctx context.Context, r request) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("the answer of the %s at %s broke off: %w (try again)", c.who, c.where, err)
	}
	if len(data) > maxAnswer {
		return nil, fmt.Errorf("the answer of the %s at %s is larger than %d bytes (ask for less: one namespace, or one name)", c.who, c.where, maxAnswer)
	}
	return &answer{res.StatusCode, res.Header, data}, nil
}

// failure is what an answer that is no success says: a status error.
func (c *conn) failure(res *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(res.Body, maxFailure))
	var st metav1.Status
	if json.Unmarshal(data, &st) != nil || st.Message == "" {
		text := strings.TrimSpace(string(data[:min(len(data), 300)]))
		if text == "" || strings.HasPrefix(text, "<") {
			text = http.StatusText(res.StatusCode)
		}
		st = metav1.Status{Message: fmt.Sprintf("%s answers %d: %s", c.where, res.StatusCode, text)}
	}
	st.Status, st.Code = metav1.StatusFailure, int32(res.StatusCode)
	switch {
	case res.StatusCode == http.StatusUnauthorized:
		st.Reason = metav1.StatusReasonUnauthorized
		st.Message = fmt.Sprintf("%s refused the token: %s (`sennit kubeconfig` on the controller's host prints a configuration with one that is good)", c.where, st.Message)
	case st.Reason == "" && res.StatusCode == http.StatusNotFound:
		st.Reason = metav1.StatusReasonNotFound
	}
	return &apierrors.StatusError{ErrStatus: st}
}

// Answered tells whether err is what a server said, and not that none could be reached.
func Answered(err error) bool {
	var st apierrors.APIStatus
	return errors.As(err, &st)
}

// warnings takes the texts out of an answer's Warning headers (RFC 7234 §5.5).
func warnings(h http.Header) []string {
	var out []string
	for _, v := range h.Values("Warning") {
		_, text, ok := strings.Cut(v, `"`)
		if !ok {
			continue
		}
		var b strings.Builder
		for i := 0; i < len(text) && text[i] != '"'; i++ {
			if text[i] == '\\' && i+1 < len(text) {
				i++
			}
			b.WriteByte(text[i])
		}
		out = append(out, b.String())
	}
	return out
}
