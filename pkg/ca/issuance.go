package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// Issued is what is recorded of a certificate.
type Issued struct {
	Serial              string // lower-case hexadecimal
	SPIFFEID            string
	NotBefore, NotAfter time.Time
	KeyHash             []byte // SHA-256 of the SubjectPublicKeyInfo
}

// An order asks for one certificate.
type order struct {
	id    string
	key   *ecdsa.PublicKey
	hosts []string
}

// IssueSVID issues the certificate of a SPIFFE ID of the trust domain for the key of a PKCS #10 request,
// whose other contents are ignored. ttl is cut to the configured maximum; 0 is that maximum. It returns the
// chain, leaf first, without the root.
func (a *Authority) IssueSVID(csr []byte, id string, ttl time.Duration) ([][]byte, error) {
	key, err := parseCSR(csr)
	if err != nil {
		return nil, fmt.Errorf("issue %s: %w", id, err)
	}
	chains, _, err := a.issue(ttl, order{id: id, key: key})
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

// issue issues and records several certificates in one transaction. issued are in the order of the chains.
func (a *Authority) issue(ttl time.Duration, orders ...order) (chains [][][]byte, issued []Issued, err error) {
	if ttl <= 0 || ttl > a.cfg.MaxTTL {
		ttl = a.cfg.MaxTTL
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.cfg.Now()
	if now.After(a.intermediate.NotBefore.Add(intermediateLife / intermediateRenewalPart)) {
		before, beforeKey := a.intermediate, a.intermediateKey
		if err := a.db.Update(a.renewIntermediate); err != nil {
			a.intermediate, a.intermediateKey = before, beforeKey // the new one was not recorded
			return nil, nil, fmt.Errorf("renew the intermediate: %w", err)
		}
	}
	for _, o := range orders {
		template, err := leafTemplate(o.id, now, ttl)
		if err != nil {
			return nil, nil, err
		}
		if template.URIs[0].Host != a.cfg.TrustDomain {
			return nil, nil, fmt.Errorf("issue %s: not of trust domain %s", o.id, a.cfg.TrustDomain)
		}
		if template.NotAfter.After(a.intermediate.NotAfter) {
			template.NotAfter = a.intermediate.NotAfter
		}
		addHosts(template, o.hosts)
		der, err := x509.CreateCertificate(rand.Reader, template, a.intermediate, o.key, a.intermediateKey)
		if err != nil {
			return nil, nil, fmt.Errorf("issue %s: %w", o.id, err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("issue %s: %w", o.id, err)
		}
		chains = append(chains, [][]byte{der, a.intermediate.Raw})
		issued = append(issued, Issued{
			Serial: serialOf(certificate), SPIFFEID: o.id,
			NotBefore: certificate.NotBefore, NotAfter: certificate.NotAfter, KeyHash: keyHash(certificate),
		})
	}
	if err := a.record(now, issued); err != nil {
		return nil, nil, fmt.Errorf("record what is issued: %w", err)
	}
	for _, record := range issued {
		a.cfg.Issued(record)
	}
	return chains, issued, nil
}

// record stores what is issued, and drops what expired a day ago.
func (a *Authority) record(now time.Time, records []Issued) error {
	return a.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketIssued)
		for _, r := range records {
			value, err := proto.Marshal(&IssuedRecord{
				Serial: r.Serial, SpiffeId: r.SPIFFEID, KeyHash: r.KeyHash,
				NotBeforeUnixMs: r.NotBefore.UnixMilli(), NotAfterUnixMs: r.NotAfter.UnixMilli(),
			})
			if err != nil {
				return err
			}
			if err := bucket.Put(issuedKey(r.NotAfter, r.Serial), value); err != nil {
				return err
			}
		}
		limit := issuedKey(now.Add(-24*time.Hour), "")
		cursor := bucket.Cursor()
		for key, _ := cursor.First(); key != nil && bytes.Compare(key, limit) < 0; key, _ = cursor.First() {
			if err := cursor.Delete(); err != nil {
				return err
			}
		}
		return nil
	})
}

// issuedKey orders records by their certificates' ends.
func issuedKey(notAfter time.Time, serial string) []byte {
	return fmt.Appendf(nil, "%016x %s", notAfter.UnixMilli(), serial)
}

// IssuedTo calls fn for each recorded certificate that has not expired, those that end first at first,
// until fn fails.
func (a *Authority) IssuedTo(fn func(Issued) error) error {
	return a.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketIssued).Cursor()
		for key, value := cursor.Seek(issuedKey(a.cfg.Now(), "")); key != nil; key, value = cursor.Next() {
			var r IssuedRecord
			if err := proto.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("%w: record of an issued certificate: %w", ErrCorrupt, err)
			}
			err := fn(Issued{
				Serial: r.GetSerial(), SPIFFEID: r.GetSpiffeId(), KeyHash: r.GetKeyHash(),
				NotBefore: time.UnixMilli(r.GetNotBeforeUnixMs()), NotAfter: time.UnixMilli(r.GetNotAfterUnixMs()),
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// ServerCertificate returns a tls.Config.GetCertificate for this controller's listeners (the API's and
// the bus's): spiffe://<trust domain>/controller/<name>, also valid for hosts (DNS names and addresses). Its
// key is made here and kept in memory; it is renewed past half of its life, and where that fails, as on a full disk, it
// is shown until it ends. The chain holds the root, so that who pinned the root's hash and no more can verify it.
func (a *Authority) ServerCertificate(hosts []string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var mu sync.Mutex
	var current *tls.Certificate
	var renewAt time.Time
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		now := a.cfg.Now()
		if current != nil && now.Before(renewAt) {
			return current, nil
		}
		next, err := a.serverCertificate(hosts)
		switch {
		case err == nil:
			current, renewAt = next, now.Add(next.Leaf.NotAfter.Sub(now)/2)
		case current == nil || now.After(current.Leaf.NotAfter):
			return nil, err
		default:
			renewAt = now.Add(serverRetry)
		}
		return current, nil
	}
}

// serverRetry is how long a server's certificate is shown further before its renewal, which failed, is tried again.
const serverRetry = 10 * time.Second

func (a *Authority) serverCertificate(hosts []string) (*tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	chains, _, err := a.issue(0, order{ControllerID(a.cfg.TrustDomain, a.cfg.Name), &key.PublicKey, hosts})
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chains[0][0])
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: append(chains[0], a.root.Raw), PrivateKey: key, Leaf: leaf}, nil
}
