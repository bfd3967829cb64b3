package ca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/internal/segments"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A Requester asks a controller over the bus (*bus.Conn).
type Requester interface {
	Request(ctx context.Context, verb string, payload []byte) ([]byte, error)
}

// A Dial connects to the bus, and returns what ends the connection again.
type Dial func(ctx context.Context, cfg bus.ConnConfig) (Requester, func(), error)

// dialBus is the Dial that is used where none is given. It first learns the root whose hash the token holds,
// from a server that shows it, so that the connection itself is verified like every other.
func dialBus(ctx context.Context, cfg bus.ConnConfig, hash [32]byte) (Requester, func(), error) {
	root, err := pinnedRoot(ctx, cfg, hash)
	if err != nil {
		return nil, nil, err
	}
	clock := cfg.TLS.Time
	cfg.TLS = busTLS(root)
	cfg.TLS.Time = clock
	conn, err := bus.Dial(cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := conn.Ready(ctx); err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, conn.Close, nil
}

// pinnedRoot shakes hands with the first server that answers as a controller of the cluster, and returns the pinned
// root from its chain.
func pinnedRoot(ctx context.Context, cfg bus.ConnConfig, hash [32]byte) (*x509.Certificate, error) {
	var failed error
	for _, server := range cfg.Servers {
		dialer := tls.Dialer{NetDialer: &net.Dialer{Control: segments.Short}, Config: cfg.TLS}
		conn, err := dialer.DialContext(ctx, "tcp", server)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
		_ = conn.Close() // nothing was sent
		if root := rootIn(chain, hash); root != nil {
			return root, nil // controllerTLS saw to it
		}
	}
	return nil, failed
}

// rootIn returns the root of a hash where a chain shows it, as it certified itself; nil where it does not.
func rootIn(chain []*x509.Certificate, hash [32]byte) *x509.Certificate {
	for _, certificate := range chain {
		if snapshot.RootHash(certificate) == hash && bytes.Equal(certificate.RawIssuer, certificate.RawSubject) {
			return certificate
		}
	}
	return nil
}

// busTLS verifies the bus's servers: only controllers get certificates with host names.
func busTLS(roots ...*x509.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
}

// busTLS believes the controllers of the roster as it is at each handshake, whatever address they were dialled at: their
// name is their SPIFFE ID.
func (i *Identity) busTLS(now func() time.Time) *tls.Config {
	if i.believed.Load() == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       now,
		// RootCAs would be those of now for good. VerifyConnection checks more than what this skips.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := i.verifyPeer(state, now())
			if err == nil && !strings.HasPrefix(id.Path(), pathController) {
				err = fmt.Errorf("%w: the server at the bus address is %s, and no controller", ErrPeer, id)
			}
			return err
		},
	}
}

// BusConfig is how the node connects to the bus. The token is asked for at each connecting: the working
// user's while it is good, else that of the user that may only renew; where the bus knows neither, that of the bus's keys
// of before, by turns.
func (i *Identity) BusConfig() bus.ConnConfig {
	state := i.current()
	credential := bus.NodeCredential(state.GetNode(), i.busToken, []byte(state.GetBusSeed()))
	credential.Refused = i.busRefused
	return bus.ConnConfig{
		Name: state.GetNode(), Servers: state.GetAddresses(), Log: i.cfg.Log,
		TLS:        i.busTLS(i.cfg.Now),
		Credential: credential,
	}
}

// busRefused hears that the bus does not know this node's user. A controller that was restored may have the keys that the
// bus had before, and knows the users of then.
func (i *Identity) busRefused() { i.busRefusals.Add(1) }

func (i *Identity) busToken() (string, error) {
	state := i.current()
	switch {
	case state.GetReceipt() == nil:
		return "", ErrNotJoined
	case i.busRefusals.Load()%2 == 1 && state.GetFormerRenewJwt() != "":
		i.Refresh() // it may ask for nothing but other users
		return state.GetFormerRenewJwt(), nil
	case i.cfg.Now().UnixMilli() < state.GetBusExpiresUnixMs():
		return state.GetBusJwt(), nil
	case state.GetRenewJwt() == "":
		return "", errors.New("the node has no bus user")
	}
	return state.GetRenewJwt(), nil
}

// controllerTLS verifies that a server is a controller of the cluster with the pinned root, whatever
// address it was dialled at. Servers send the root along (Authority.ServerCertificate).
func controllerTLS(root [32]byte, trustDomain string, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       now,
		// The name of a controller is its SPIFFE ID. VerifyConnection checks more than what this skips.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			roots := x509.NewCertPool()
			if pinned := rootIn(state.PeerCertificates, root); pinned != nil {
				roots.AddCert(pinned)
			}
			id, err := verifyChain(state.PeerCertificates, roots, trustDomain, now())
			switch unknown := (x509.UnknownAuthorityError{}); {
			case errors.Is(err, errNotNow):
				return fmt.Errorf("%w, or the controller's has stopped renewing: %w; compare the clocks, and set the wrong one (`timedatectl set-ntp true`)", ErrClock, err)
			case errors.As(err, &unknown):
				return fmt.Errorf("%w: %w: the server at the bus address has a certificate of another root; make a token where it is to join, and check the address", ErrUntrusted, ErrTokenForeign)
			case err != nil:
				return fmt.Errorf("%w: %w", ErrUntrusted, err)
			case !strings.HasPrefix(id.Path(), pathController):
				return fmt.Errorf("%w: the server at the bus address is %s, and no controller", ErrUntrusted, id)
			}
			return nil
		},
	}
}
