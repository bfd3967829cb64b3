package node

import (
	"bytes"
	"crypto/ecdh"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Certificates are those of the gateways' listeners that this node could open. take is for one goroutine.
type certificates struct {
	key  *ecdh.PrivateKey
	from map[exchange.ServiceName]*snapshot.Ingress // what they were opened from
	open atomic.Pointer[map[exchange.ServiceName]gatewayCertificates]
}

// gatewayCertificates are those of one gateway, and why there are none, by listener.
type gatewayCertificates struct {
	listeners map[string][]*tls.Certificate
	problems  map[string]string
	clients   map[string]proxy.Clients
}

// clients is proxy.Outbound's.
func (c *certificates) clients(gateway exchange.ServiceName, listener string) proxy.Clients {
	if all := c.open.Load(); all != nil {
		return (*all)[gateway].clients[listener]
	}
	return proxy.Clients{}
}

// of is proxy.Outbound's.
func (c *certificates) of(gateway exchange.ServiceName, listener string) []*tls.Certificate {
	if all := c.open.Load(); all != nil {
		return (*all)[gateway].listeners[listener]
	}
	return nil
}

// problem says why a port of a gateway cannot be served; it is empty where it can.
func (c *certificates) problem(gateway exchange.ServiceName, body *snapshot.Ingress, port uint32) string {
	for _, l := range body.GetListeners() {
		if l.Port != port || l.Tls == nil || l.Tls.Passthrough || len(c.of(gateway, l.Name)) > 0 {
			continue
		}
		if all := c.open.Load(); all != nil && (*all)[gateway].problems[l.Name] != "" {
			return fmt.Sprintf("listener %s: %s", l.Name, (*all)[gateway].problems[l.Name])
		}
		return fmt.Sprintf("listener %s: its certificate is not here yet", l.Name)
	}
	return ""
}

// take opens the certificates of all gateways that run here, where what they let in has changed.
func (c *certificates) take(bodies map[exchange.ServiceName]*snapshot.Ingress) (changed bool) {
	next := make(map[exchange.ServiceName]gatewayCertificates, len(bodies))
	changed = len(bodies) != len(c.from)
	for gateway, body := range bodies {
		if known := c.open.Load(); known != nil && c.from[gateway] == body {
			next[gateway] = (*known)[gateway]
			continue
		}
		next[gateway], changed = c.openAll(gateway, body), true
	}
	if changed {
		c.from = bodies
		c.open.Store(&next)
	}
	return changed
}

func (c *certificates) openAll(gateway exchange.ServiceName, body *snapshot.Ingress) gatewayCertificates {
	out := gatewayCertificates{listeners: map[string][]*tls.Certificate{}, problems: map[string]string{}, clients: map[string]proxy.Clients{}}
	opened := make([]*tls.Certificate, len(body.GetCertificates()))
	problems := make([]error, len(opened))
	for i, one := range body.GetCertificates() {
		opened[i], problems[i] = c.openOne(gateway, one)
	}
	for _, l := range body.GetListeners() {
		if ask := l.GetTls().GetClients(); ask != nil {
			roots := x509.NewCertPool()
			if !roots.AppendCertsFromPEM(ask.GetRoots()) && !ask.GetAnybody() {
				out.problems[l.Name] = "what clients' certificates must chain to is not readable"
				continue // without certificates of its own it lets in nobody
			}
			out.clients[l.Name] = proxy.Clients{Roots: roots, Anybody: ask.GetAnybody()}
		}
		for _, at := range l.GetTls().GetCertificates() {
			if int(at) >= len(opened) {
				continue // routing has refused it
			}
			if err := problems[at]; err != nil {
				out.problems[l.Name] = err.Error()
				continue
			}
			out.listeners[l.Name] = append(out.listeners[l.Name], opened[at])
		}
	}
	return out
}

func (c *certificates) openOne(gateway exchange.ServiceName, one *snapshot.IngressCertificate) (*tls.Certificate, error) {
	mine := c.key.PublicKey().Bytes()
	for _, k := range one.GetKeys() {
		if !bytes.Equal(k.GetRecipient(), mine) {
			continue
		}
		key, err := snapshot.OpenKey(c.key, gateway.String(), k.GetSealed())
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(one.GetChain(), key)
		if err != nil {
			return nil, errors.New("the certificate and its key do not fit")
		}
		return &pair, nil
	}
	return nil, errors.New("the certificate's key is not sealed to this node yet")
}
