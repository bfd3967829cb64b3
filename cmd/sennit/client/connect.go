package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Config says where the controller is: at a URL, where a kubeconfig says, or, where neither is given, at a socket.
type Config struct {
	Server     string // "https://host:port"
	TokenFile  string // the operator's bearer token
	CAFile     string // what the server's certificate must chain to, PEM; the system's roots where empty
	Kubeconfig string // made by `sennit kubeconfig`; instead of the three above
	Socket     string // path of the controller's unix socket
}

// A Client speaks to one controller. It is safe for concurrent use.
type Client struct {
	// Warn is called with each warning that an answer carries. It may be nil, and must be set before use.
	Warn func(text string)
	conn conn
}

// requestTimeout bounds what is answered at once. Watches and waiting end with their context.
const requestTimeout = 30 * time.Second

// New returns a client. It reads the files that cfg names and connects to nothing.
func New(cfg Config) (*Client, error) {
	if cfg.Kubeconfig != "" {
		return fromKubeconfig(cfg.Kubeconfig)
	}
	if cfg.Server == "" {
		return &Client{conn: unixConn(cfg.Socket, "controller",
			"start one with `sennit controller` on this host, name its socket with --socket, or reach another host's with --server https://host:port --token-file FILE --ca-file FILE")}, nil
	}
	if cfg.TokenFile == "" {
		return nil, fmt.Errorf("connect to %s: no token (put the operator's token into a file and name it with --token-file; `sennit kubeconfig` on the controller's host prints one)", cfg.Server)
	}
	token, err := readToken(cfg.TokenFile)
	if err != nil {
		return nil, err
	}
	var roots *x509.CertPool
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA's certificates: %w", err)
		}
		if roots, err = pool(cfg.CAFile, pem); err != nil {
			return nil, err
		}
	}
	return newTLS(cfg.Server, token, roots, "")
}

func readToken(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("read the token: %s must hold one token and nothing else", file)
	}
	return token, nil
}

func pool(name string, pem []byte) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", name)
	}
	return p, nil
}

// newTLS returns a client of a server that must show a certificate of roots (nil: the system's) for serverName
// ("": the URL's host).
func newTLS(server, token string, roots *x509.CertPool, serverName string) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("the server must be given as https://host:port, is %q", server) // a token is never sent in clear
	}
	return &Client{conn: conn{
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				TLSClientConfig:     &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout: 10 * time.Second,
				ForceAttemptHTTP2:   true,
				DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			},
			CheckRedirect: noRedirect,
		},
		base: strings.TrimSuffix(u.String(), "/"), token: token, who: "controller", where: u.Scheme + "://" + u.Host,
		remedy: "look whether it runs there, or name another with --server",
	}}, nil
}

// noRedirect keeps the token with the server that it is for.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// A conn is how to reach one server.
type conn struct {
	http        *http.Client
	base, token string
	plugin      *plugin // asked for the token; nil: token is the one
	who, where  string  // for people: "controller", "unix socket /run/…"
	remedy      string  // where nobody answers
}

func unixConn(path, who, remedy string) conn {
	return conn{
		http: &http.Client{
			Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", path)
			}},
			CheckRedirect: noRedirect,
		},
		base: "http://" + who, who: who, where: "unix socket " + path, remedy: remedy,
	}
}

// unreachable says why nobody answered, and what to do.
func (c *conn) unreachable(err error) error {
	var (
		wrapped   *url.Error
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
	)
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	remedy := c.remedy
	switch {
	case errors.As(err, &authority):
		remedy = "name the certificates of the cluster's CA with --ca-file, or take a new `sennit kubeconfig`"
	case errors.As(err, &host), errors.As(err, &invalid):
		remedy = "name the controller as its certificate does, and check the clocks of both hosts"
	case errors.As(err, &record):
		remedy = "that is no controller's API port, for it does not speak TLS"
	case errors.Is(err, os.ErrPermission):
		remedy = "only root and the user that the " + c.who + " runs as may open it: run this as one of them, as with sudo"
		if c.who == "controller" {
			remedy += ", or use --server with a token"
		}
	}
	return fmt.Errorf("no %s answers at %s: %w (%s)", c.who, c.where, err, remedy)
}
