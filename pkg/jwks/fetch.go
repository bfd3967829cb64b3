package jwks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authn"
)

const (
	fetchTime    = 10 * time.Second
	maxSetBytes  = 256 << 10
	maxHeadBytes = 32 << 10
	maxRedirects = 3
)

// A result is what became of one attempt.
type result struct {
	keys []byte
	err  error
}

// never are addresses where no issuer is, and what is must not be asked by whoever may write a document: a host's link, and
// where clouds tell hosts their secrets.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("192.0.0.192/32"),
	netip.MustParsePrefix("::/128"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::/32"), netip.MustParsePrefix("64:ff9b::/96"),
}

// guard refuses to connect to some addresses, once the name is resolved.
func guard(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	for _, p := range never {
		if p.Contains(at.Addr().Unmap().WithZone("")) {
			return fmt.Errorf("%s is of this host's link or its cloud", at.Addr())
		}
	}
	return nil
}

// Fetch reads once what is published at a source, with the bounds and the guard of a Fetcher, and returns its keys as
// authn.ReadKeys does.
func Fetch(ctx context.Context, from Source) ([]byte, error) {
	r := fetch(ctx, from)
	return r.keys, r.err
}

// fetch reads what is published at a source.
func fetch(ctx context.Context, from Source) result {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.URL, nil)
	if err != nil {
		return result{err: err}
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if from.CABundle != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(from.CABundle)) {
			return result{err: errors.New("caBundle holds no certificate")}
		}
	}
	transport := &http.Transport{
		DialContext: (&net.Dialer{Control: guard}).DialContext, TLSClientConfig: config, Proxy: http.ProxyFromEnvironment,
		MaxResponseHeaderBytes: maxHeadBytes, DisableKeepAlives: true, ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		switch {
		case len(via) > maxRedirects:
			return fmt.Errorf("there are more than %d redirects", maxRedirects)
		case to.URL.Scheme != "https" && via[0].URL.Scheme == "https":
			return errors.New("it is redirected to what is not encrypted")
		}
		return nil
	}}
	response, err := client.Do(request)
	if err != nil {
		return result{err: err}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return result{err: fmt.Errorf("GET %s: it is answered with %s", from.URL, response.Status)}
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxSetBytes+1))
	if err != nil {
		return result{err: fmt.Errorf("GET %s: %w", from.URL, err)}
	}
	if len(body) > maxSetBytes {
		return result{err: fmt.Errorf("GET %s: it is answered with more than %d bytes", from.URL, maxSetBytes)}
	}
	keys, _, err := authn.ReadKeys(body) // that some are for other purposes is usual
	if err != nil {
		return result{err: fmt.Errorf("GET %s: %w", from.URL, err)}
	}
	return result{keys: keys}
}
