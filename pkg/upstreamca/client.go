package upstreamca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// askTime bounds one request to an authority.
const askTime = 30 * time.Second

// A Client speaks HTTPS with one authority. It follows no redirect: nobody else is sent what proves who we are.
type Client struct {
	base *url.URL
	http *http.Client
}

// NewClient makes a client of the authority at a URL (https://host[:port][/path]), which is believed where it shows a
// certificate under roots; nil: under those of this host.
func NewClient(base string, roots *x509.CertPool) (*Client, error) {
	parsed, err := url.Parse(base)
	if err != nil || parsed.Scheme != "https" || parsed.Host == "" || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" {
		return nil, fmt.Errorf("url %q: want https://HOST[:PORT][/PATH]", base)
	}
	return &Client{base: parsed, http: &http.Client{
		Timeout: askTime,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, Proxy: http.ProxyFromEnvironment,
			MaxResponseHeaderBytes: 32 << 10, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Present shows a certificate to the authority, as proof of who asks. Both files are in PEM and are read at each request; the
// key's is one that its owner alone may read.
func (c *Client) Present(certificateFile, keyFile string) {
	if transport, ok := c.http.Transport.(*http.Transport); ok { // as NewClient made it
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			certificate, err := os.ReadFile(certificateFile)
			if err != nil {
				return nil, err
			}
			key, err := ReadSecret(keyFile)
			if err != nil {
				return nil, err
			}
			pair, err := tls.X509KeyPair(certificate, key)
			return &pair, err
		}
	}
}

// URL is where a path is at the authority.
func (c *Client) URL(path string) string { return strings.TrimSuffix(c.base.String(), "/") + path }

// Host is the authority's host, with its port where one is given.
func (c *Client) Host() string { return c.base.Host }

// HTTP is a client beneath a protocol that has a library of its own. It asks this authority's host and no other, whichever
// addresses an answer names, follows no redirect, and reads at most MaxAnswer bytes of each answer.
func (c *Client) HTTP() *http.Client {
	bound := *c.http
	bound.Transport = bounded{host: c.base.Host, next: c.http.Transport}
	return &bound
}

type bounded struct {
	host string
	next http.RoundTripper
}

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.Host != b.host {
		return nil, fmt.Errorf("the authority at %s sends to %s, which is not asked", b.host, Short(r.URL.Redacted()))
	}
	response, err := b.next.RoundTrip(r)
	if err == nil {
		response.Body = &boundedBody{ReadCloser: response.Body, left: MaxAnswer}
	}
	return response, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrAnswer, MaxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrAnswer, MaxAnswer)
	}
	return n, err
}

// Do sends a request with a body, which may be nil, and returns the status and at most MaxAnswer bytes of the answer.
func (c *Client) Do(ctx context.Context, method, path string, header http.Header, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, c.URL(path), bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, err // names the method and the URL
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, MaxAnswer+1))
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("%s %s: %w", method, c.URL(path), err)
	case len(answer) > MaxAnswer:
		return 0, nil, fmt.Errorf("%s %s: it is answered with more than %d bytes", method, c.URL(path), MaxAnswer)
	}
	return response.StatusCode, answer, nil
}

// Certificates reads the certificates of a text in PEM, and nothing else that it may hold.
func Certificates(text string) (all []*x509.Certificate, err error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if len(all) == MaxChain+MaxRoots {
			return nil, fmt.Errorf("more than %d certificates", MaxChain+MaxRoots)
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return all, nil
}

// Split parts certificates into a chain and the roots among them, which are those that signed themselves.
func Split(all []*x509.Certificate) (c Certified) {
	for _, one := range all {
		if bytes.Equal(one.RawIssuer, one.RawSubject) && one.CheckSignatureFrom(one) == nil {
			c.Roots = append(c.Roots, one)
		} else {
			c.Chain = append(c.Chain, one)
		}
	}
	return c
}

// Failure is an error of an authority's words, which strangers may have chosen: short, on one line.
func Failure(what string, status int, words string) error {
	return fmt.Errorf("%s: the authority answers %d %s: %q", what, status, http.StatusText(status), Short(words))
}

// Short puts words that strangers may have chosen on one line, and cuts what is too long of them.
func Short(words string) string {
	if words = strings.Join(strings.Fields(words), " "); len(words) > 300 {
		words = strings.ToValidUTF8(words[:300], "") + "…"
	}
	return words
}
