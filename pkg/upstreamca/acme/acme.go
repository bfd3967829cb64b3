// Package acme asks an authority that speaks ACME (RFC 8555) for intermediates, such as step-ca.
//
// ACME proves a name, and what a certificate of it may do is the authority's to say: its provisioner has to make an
// intermediate of what is asked for. The name is that of a device, which the intermediate's own key is attested to be on
// (device-attest-01), or that of this host (http-01). Start reading at Authority.Certify.
package acme

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// Config says which authority is asked, and what is proved to it. One of Device and HTTP is set.
type Config struct {
	// Directory is the URL where the protocol begins: https://host/acme/PROVISIONER/directory at step-ca.
	Directory string `yaml:"directory"`
	// RootFile has the roots in PEM that the intermediate hangs on, which nodes are told to trust.
	RootFile string `yaml:"rootFile"`
	// CAFile has the roots in PEM that the server's own certificate hangs on; empty: those of RootFile.
	CAFile string `yaml:"caFile"`
	// AccountKeyFile has the account's private key (PKCS #8 in PEM), of mode 0600. It is made where there is none.
	AccountKeyFile string `yaml:"accountKeyFile"`
	// EAB binds the account to one that the authority knows (RFC 8555 §7.3.4); nil: it asks for none.
	EAB    *EAB    `yaml:"eab"`
	Device *Device `yaml:"device"`
	HTTP   *HTTP   `yaml:"http"`
}

// EAB is a key that the authority gave out for one account.
type EAB struct {
	KeyID string `yaml:"keyID"`
	// HMACKeyFile has the key in base64url, of mode 0600.
	HMACKeyFile string `yaml:"hmacKeyFile"`
}

// The time that one order may take, and how often what was not taken is sent again.
const (
	orderTime  = 2 * time.Minute
	maxRetries = 3
)

// What an authority may have proved for one order, which policy may make more than the order names (RFC 8555 §7.1.3), and the
// characters of a challenge's token.
const (
	maxAuthorizations = 10
	maxToken          = 600
)

// An Authority is one ACME directory. It is safe for concurrent use.
type Authority struct {
	cfg    Config
	roots  []*x509.Certificate
	client *upstreamca.Client
	now    func() time.Time
}

// New makes the authority of a configuration, and reads the roots. It asks nobody yet, and reads keys each time that they
// are used. now dates orders; nil: time.Now.
func New(cfg Config, now func() time.Time) (*Authority, error) {
	switch {
	case cfg.RootFile == "" || cfg.AccountKeyFile == "":
		return nil, errors.New("want rootFile and accountKeyFile")
	case cfg.EAB != nil && (cfg.EAB.KeyID == "" || cfg.EAB.HMACKeyFile == ""):
		return nil, errors.New("eab: want keyID and hmacKeyFile")
	case (cfg.Device == nil) == (cfg.HTTP == nil):
		return nil, errors.New("want one of device and http")
	case cfg.Device != nil && (cfg.Device.Identifier == "" || cfg.Device.CertFile == "" || cfg.Device.KeyFile == ""):
		return nil, errors.New("device: want identifier, certFile and keyFile")
	case cfg.HTTP != nil && cfg.HTTP.Name == "":
		return nil, errors.New("http: want name")
	}
	if cfg.HTTP != nil && cfg.HTTP.Listen == "" {
		cfg.HTTP = &HTTP{Name: cfg.HTTP.Name, Listen: ":80"}
	}
	a := &Authority{cfg: cfg, now: now}
	if a.now == nil {
		a.now = time.Now
	}
	all, _, err := readRoots("rootFile", cfg.RootFile)
	if err != nil {
		return nil, err
	}
	if a.roots = upstreamca.Split(all).Roots; len(a.roots) != len(all) {
		return nil, fmt.Errorf("rootFile %s: has certificates that are no roots", cfg.RootFile)
	}
	ca := cfg.CAFile
	if ca == "" {
		ca = cfg.RootFile
	}
	_, pool, err := readRoots("caFile", ca)
	if err != nil {
		return nil, err
	}
	if a.client, err = upstreamca.NewClient(cfg.Directory, pool); err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return a, nil
}

func readRoots(field, file string) ([]*x509.Certificate, *x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", field, err)
	}
	all, err := upstreamca.Certificates(string(text))
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", field, file, err)
	}
	pool := x509.NewCertPool()
	for _, one := range all {
		pool.AddCert(one)
	}
	return all, pool, nil
}

// String names it.
func (a *Authority) String() string { return "ACME " + a.client.URL("") }

// Certify orders a certificate for the name that is configured, proves the name, and takes the chain. Of csr it takes the
// organization: the common name is the one that is proved, and ACME lets no other through.
func (a *Authority) Certify(ctx context.Context, csr []byte, key crypto.Signer, life time.Duration) (upstreamca.Certified, error) {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	asked, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return upstreamca.Certified{}, err
	}
	id, request := a.identity(asked.Subject.Organization)
	der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return upstreamca.Certified{}, err
	}
	client, err := a.account(ctx)
	if err != nil {
		return upstreamca.Certified{}, err
	}
	order, err := client.AuthorizeOrder(ctx, []acme.AuthzID{id}, acme.WithOrderNotAfter(a.now().Add(life)))
	if err != nil {
		return upstreamca.Certified{}, failure("order a certificate of "+id.Value, err, ofOrders)
	}
	if n := len(order.AuthzURLs); n > maxAuthorizations {
		return upstreamca.Certified{}, fmt.Errorf("%w: it has %d things proved: at most %d", upstreamca.ErrAnswer, n, maxAuthorizations)
	}
	for _, url := range order.AuthzURLs {
		if err := a.prove(ctx, client, url, key); err != nil {
			return upstreamca.Certified{}, err
		}
	}
	if order, err = client.WaitOrder(ctx, order.URI); err != nil {
		return upstreamca.Certified{}, failure("wait for the order", err, ofOrders)
	}
	chain, _, err := client.CreateCertFromOrder(ctx, order, der, true)
	if err != nil {
		return upstreamca.Certified{}, failure("have it certified", err, ofOrders)
	}
	c := upstreamca.Certified{Roots: a.roots}
	for _, one := range chain {
		certificate, err := x509.ParseCertificate(one)
		if err != nil {
			return upstreamca.Certified{}, fmt.Errorf("%w: chain: %w", upstreamca.ErrAnswer, err)
		}
		c.Chain = append(c.Chain, certificate)
	}
	c.Chain = upstreamca.Split(c.Chain).Chain // some authorities end it with the root
	return c, nil
}

// identity is what is ordered, and the request that fits it.
func (a *Authority) identity(organization []string) (acme.AuthzID, *x509.CertificateRequest) {
	request := &x509.CertificateRequest{Subject: pkix.Name{Organization: organization}}
	if device := a.cfg.Device; device != nil {
		request.Subject.CommonName = device.Identifier
		return acme.AuthzID{Type: "permanent-identifier", Value: device.Identifier}, request
	}
	name := a.cfg.HTTP.Name
	if ip := net.ParseIP(name); ip != nil {
		name = ip.String() // as it is to be written (RFC 8738 §3)
		request.Subject.CommonName, request.IPAddresses = name, []net.IP{ip}
		return acme.AuthzID{Type: "ip", Value: name}, request
	}
	request.Subject.CommonName, request.DNSNames = name, []string{name}
	return acme.AuthzID{Type: "dns", Value: name}, request
}

// prove answers the challenge of one authorization.
func (a *Authority) prove(ctx context.Context, client *acme.Client, url string, key crypto.Signer) error {
	authorization, err := client.GetAuthorization(ctx, url)
	if err != nil {
		return failure("read what is to be proved", err, ofOrders)
	}
	if authorization.Status == acme.StatusValid {
		return nil
	}
	kind, answer := "http-01", a.answerHTTP
	if a.cfg.Device != nil {
		kind, answer = "device-attest-01", a.answerDevice
	}
	for _, challenge := range authorization.Challenges {
		if challenge.Type != kind {
			continue
		}
		if !isToken(challenge.Token) {
			return fmt.Errorf("%w: %s with a token that is none", upstreamca.ErrAnswer, kind)
		}
		end, err := answer(client, challenge, key)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		defer end()
		if _, err := client.Accept(ctx, challenge); err != nil {
			return failure("prove by "+kind, err, ofOrders)
		}
		return a.await(ctx, client, url, kind)
	}
	return fmt.Errorf("the authority takes no %s for %s: enable that challenge in its provisioner", kind, upstreamca.Short(authorization.Identifier.Value))
}

// isToken reports whether a token has the form of one (RFC 8555 §8.3). The intermediate's key signs it, or it is shown to whoever asks
// this host: anything else could be made to mean something there.
func isToken(token string) bool {
	return token != "" && len(token) <= maxToken && !strings.ContainsFunc(token, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

// await waits until the authority believes what was answered, or says that it does not: of the challenge alone, as step-ca
// does, or of the authorization.
func (a *Authority) await(ctx context.Context, client *acme.Client, url, kind string) error {
	unproved := errors.New("the authority does not say why")
	for {
		now, err := client.GetAuthorization(ctx, url)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("prove by %s: %w (%w)", kind, unproved, ctx.Err())
		case err != nil:
			return failure("prove by "+kind, err, ofOrders)
		}
		ended := now.Status != acme.StatusPending && now.Status != acme.StatusProcessing
		for _, challenge := range now.Challenges {
			if challenge.Type != kind {
				continue
			}
			ended = ended || challenge.Status == acme.StatusInvalid
			if challenge.Error != nil { // also of one try of several
				unproved = said(challenge.Error)
			}
		}
		switch {
		case now.Status == acme.StatusValid:
			return nil
		case ended:
			return fmt.Errorf("prove by %s: it is not believed: %w", kind, unproved)
		}
		again := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			again.Stop()
		case <-again.C:
		}
	}
}
