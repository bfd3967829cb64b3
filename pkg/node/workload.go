package node

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/workload"
)

// openWorkload prepares the Workload API where a socket is given.
func (n *Node) openWorkload() {
	if n.cfg.Workload == "" {
		return
	}
	n.workload = workload.New(workload.Config{
		TrustDomain: n.identity.TrustDomain(), Issuer: issuer{n}, Keeper: workloadKeeper{n.store, n.identity},
		Processes: capture.NewProcesses(""), Declared: n.workloads, Bundles: n.processBundles, Log: n.log, Now: n.cfg.Now,
	})
}

func (n *Node) serveWorkload(ctx context.Context) error {
	l, err := socket.ListenForAll(ctx, n.cfg.Workload, "choose another place with --workload-socket")
	if err != nil {
		return err
	}
	return n.workload.Run(ctx, l)
}

// workloadChanged has processes told what is new.
func (n *Node) workloadChanged() {
	if n.workload != nil {
		n.workload.Changed()
	}
}

// workloads are the processes that services.d names.
func (n *Node) workloads() (all []workload.Declared) {
	for _, in := range n.local.Instances() {
		if w := in.Workload; w != nil {
			all = append(all, workload.Declared{Service: in.Service, Process: capture.Workload{HasUID: w.HasUID, UID: w.UID, Unit: w.Unit}})
		}
	}
	return all
}

// processBundles are whom processes of this host may believe: the roots that lanes believe too, and what the controllers
// say of JWT-SVIDs and of other trust domains.
func (n *Node) processBundles() *spiffebundle.Set {
	own := spiffebundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(n.identity.TrustDomain()), n.identity.Roots())
	set := spiffebundle.NewSet(own)
	if taken := n.bundles.taken.Load(); taken != nil {
		for id, key := range taken.keys {
			_ = own.AddJWTAuthority(id, key) // fails for an empty id, which take refuses
		}
		for _, foreign := range taken.foreign {
			if foreign.TrustDomain() != own.TrustDomain() { // nobody else speaks for it
				set.Add(foreign)
			}
		}
	}
	return set
}

// bundles are what the controllers say of whom processes may believe.
type bundles struct{ taken atomic.Pointer[takenBundle] }

// takenBundle never changes.
type takenBundle struct {
	keys    map[string]crypto.PublicKey // that verify JWT-SVIDs of the own trust domain
	foreign []*spiffebundle.Bundle
}

// take puts a body into force; nil: there is none.
func (b *bundles) take(body *snapshot.Bundle) error {
	next := &takenBundle{}
	var err error
	if next.keys, err = jwtKeys(body.GetJwtKeys()); err != nil {
		return err
	}
	for _, f := range body.GetForeign() {
		domain, err := spiffeid.TrustDomainFromString(f.GetTrustDomain())
		if err != nil {
			return fmt.Errorf("foreign bundle: %w", err)
		}
		bundle := spiffebundle.New(domain)
		for _, der := range f.GetRoots() {
			root, err := x509.ParseCertificate(der)
			if err != nil {
				return fmt.Errorf("bundle of %s: %w", domain, err)
			}
			bundle.AddX509Authority(root)
		}
		keys, err := jwtKeys(f.GetJwtKeys())
		if err != nil {
			return fmt.Errorf("bundle of %s: %w", domain, err)
		}
		bundle.SetJWTAuthorities(keys)
		next.foreign = append(next.foreign, bundle)
	}
	b.taken.Store(next)
	return nil
}

func jwtKeys(from []*snapshot.JWTKey) (map[string]crypto.PublicKey, error) {
	keys := map[string]crypto.PublicKey{}
	for _, k := range from {
		key, err := x509.ParsePKIXPublicKey(k.GetPublicKey())
		if err == nil && k.GetId() == "" {
			err = errors.New("it has no name")
		}
		if err != nil {
			return nil, fmt.Errorf("key %q of JWT-SVIDs: %w", k.GetId(), err)
		}
		keys[k.GetId()] = key
	}
	return keys, nil
}

// issuer asks the controllers for SVIDs of processes (workload.Issuer).
type issuer struct{ n *Node }

// Certificate is workload.Issuer's.
func (i issuer) Certificate(ctx context.Context, service exchange.ServiceName) (*tls.Certificate, error) {
	return i.n.identity.WorkloadCertificate(ctx, i.n.conn, service)
}

// Token is workload.Issuer's.
func (i issuer) Token(ctx context.Context, service exchange.ServiceName, audience []string) (string, error) {
	return i.n.identity.WorkloadToken(ctx, i.n.conn, service, audience)
}

// MayHold is workload.Issuer's.
func (i issuer) MayHold(service exchange.ServiceName) error { return i.n.identity.MayHold(service) }

// Check is workload.Issuer's.
func (i issuer) Check(certificate *tls.Certificate, service exchange.ServiceName) error {
	return i.n.identity.CheckWorkload(certificate, service)
}

// CheckToken is workload.Issuer's.
func (i issuer) CheckToken(id, node string, issued time.Time) error {
	return i.n.identity.CheckToken(id, node, issued)
}

// workloadKeeper keeps certificates of processes in node.db (workload.Keeper).
type workloadKeeper struct {
	store *store
	by    sealer
}

const workloadPurpose = "key of a process"

// Load is workload.Keeper's.
func (k workloadKeeper) Load(service exchange.ServiceName) (*tls.Certificate, error) {
	var kept ca.Credential
	err := k.store.db.View(func(tx *bbolt.Tx) error {
		return proto.Unmarshal(tx.Bucket(workloadsBucket).Get([]byte(service.String())), &kept)
	})
	if err != nil || len(kept.GetChain()) == 0 {
		return nil, err
	}
	der, err := k.by.Open(workloadPurpose, kept.GetKey())
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(kept.GetChain()[0])
	return &tls.Certificate{Certificate: kept.GetChain(), PrivateKey: key, Leaf: leaf}, err
}

// Save is workload.Keeper's.
func (k workloadKeeper) Save(service exchange.ServiceName, certificate *tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return err
	}
	data, err := proto.Marshal(&ca.Credential{Service: service.String(), Key: k.by.Seal(workloadPurpose, key), Chain: certificate.Certificate})
	if err != nil {
		return err
	}
	return k.store.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(workloadsBucket).Put([]byte(service.String()), data)
	})
}
