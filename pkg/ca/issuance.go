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
	Node                string // that it was issued to; empty: none of them
	Issuer              string // name of the certificate that signed it

	number uint64 // in the order of issuing; 0 in records of before there were numbers
}

// An order asks for one certificate.
type order struct {
	id    string
	key   *ecdsa.PublicKey
	hosts []string
	node  string    // that asks, and holds it; "" where none does
	after time.Time // it is not valid earlier: what was valid was revoked
	own   bool      // under the mesh's own root, whoever issues for nodes: who joins knows no other
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
	now := a.cfg.Now()
	if err := a.renewInTime(now); err != nil {
		return nil, nil, err
	}
	a.issuing.RLock()
	defer a.issuing.RUnlock()
	h := a.held()
	for _, o := range orders {
		template, err := leafTemplate(o.id, o.node, now, ttl)
		if err != nil {
			return nil, nil, err
		}
		template.Subject = subjectOf(o.node)
		if template.URIs[0].Host != a.cfg.TrustDomain {
			return nil, nil, fmt.Errorf("issue %s: not of trust domain %s", o.id, a.cfg.TrustDomain)
		}
		by := h.issuer(o.own)
		if !now.Before(by.ends) {
			return nil, nil, fmt.Errorf("issue %s: the intermediate ended %s (`sennit ca status` says why it was not renewed)", o.id, by.ends.UTC().Format(time.RFC3339))
		}
		if template.NotAfter.After(by.ends) {
			template.NotAfter = by.ends
		}
		addHosts(template, o.hosts)
		if template.NotBefore.Before(o.after) {
			template.NotBefore = o.after
		}
		der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, o.key, by.key)
		if err != nil {
			return nil, nil, fmt.Errorf("issue %s: %w", o.id, err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("issue %s: %w", o.id, err)
		}
		chains = append(chains, append([][]byte{der}, by.behind...))
		issued = append(issued, Issued{
			Serial: serialOf(certificate), SPIFFEID: o.id,
			NotBefore: certificate.NotBefore, NotAfter: certificate.NotAfter, KeyHash: keyHash(certificate),
			Node: o.node, Issuer: certificate.Issuer.CommonName,
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

// renewInTime renews the intermediate past half of its life, where this controller can.
func (a *Authority) renewInTime(now time.Time) error {
	due := func(h *holding) bool {
		return h.rootKey != nil && now.After(h.intermediate.NotBefore.Add(intermediateLife/intermediateRenewalPart))
	}
	h := a.held()
	if h.rootKey == nil && !now.Before(h.intermediate.NotAfter) {
		return fmt.Errorf("issue: %w, and this controller's intermediate has ended: ask for another with `sennit ca request`", ErrRootOffline)
	}
	if !due(&h) {
		return nil
	}
	var renewed *x509.Certificate
	err := a.change(func(h *holding) error {
		if !due(h) { // another was faster
			return nil
		}
		err := a.renewIntermediate(h)
		renewed = h.intermediate
		return err
	})
	if err != nil {
		return fmt.Errorf("renew the intermediate: %w", err)
	}
	if renewed != nil {
		a.cfg.Issued(a.ofIntermediate(renewed))
	}
	return nil
}

// ofIntermediate is what is told of an intermediate that was renewed.
func (a *Authority) ofIntermediate(renewed *x509.Certificate) Issued {
	return Issued{
		Serial: serialOf(renewed), SPIFFEID: "spiffe://" + a.cfg.TrustDomain, NotBefore: renewed.NotBefore, NotAfter: renewed.NotAfter, KeyHash: keyHash(renewed),
		Issuer: renewed.Issuer.CommonName,
	}
}

// recordTogether is how long a record waits for others: one sync to disk is for all of them.
const recordTogether = time.Millisecond

// record stores what is issued, and drops what expired a day ago.
func (a *Authority) record(now time.Time, records []Issued) error {
	return a.db.Batch(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketIssued)
		for _, r := range records {
			number, err := bucket.NextSequence()
			if err != nil {
				return err
			}
			value, err := proto.Marshal(&IssuedRecord{
				Serial: r.Serial, SpiffeId: r.SPIFFEID, KeyHash: r.KeyHash,
				NotBeforeUnixMs: r.NotBefore.UnixMilli(), NotAfterUnixMs: r.NotAfter.UnixMilli(),
				Node: r.Node, Issuer: r.Issuer, Number: number,
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
func (a *Authority) IssuedTo(fn func(Issued) error) error { return a.IssuedSince(a.cfg.Now(), fn) }

// IssuedSince is IssuedTo with those that expired since then, of which a day is kept. fn must not take long: it is called
// in a transaction.
func (a *Authority) IssuedSince(since time.Time, fn func(Issued) error) error {
	return a.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketIssued).Cursor()
		for key, value := cursor.Seek(issuedKey(since, "")); key != nil; key, value = cursor.Next() {
			var r IssuedRecord
			if err := proto.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("%w: record of an issued certificate: %w", ErrCorrupt, err)
			}
			err := fn(Issued{
				Serial: r.GetSerial(), SPIFFEID: r.GetSpiffeId(), KeyHash: r.GetKeyHash(), Node: r.GetNode(), Issuer: r.GetIssuer(),
				NotBefore: time.UnixMilli(r.GetNotBeforeUnixMs()), NotAfter: time.UnixMilli(r.GetNotAfterUnixMs()), number: r.GetNumber(),
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
// is shown until it ends. Where the authority was rotated it is renewed at once.
func (a *Authority) ServerCertificate(hosts []string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var mu sync.Mutex
	var current *tls.Certificate
	var renewAt time.Time
	var by *x509.Certificate // the intermediate at that time
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		now, intermediate := a.cfg.Now(), a.held().intermediate
		if current != nil && now.Before(renewAt) && by == intermediate {
			return current, nil
		}
		next, err := a.serverCertificate(hosts)
		switch {
		case err == nil:
			current, renewAt, by = next, now.Add(next.Leaf.NotAfter.Sub(now)/2), intermediate
		case current == nil || now.After(current.Leaf.NotAfter):
			return nil, err
		default:
			renewAt, by = now.Add(serverRetry), intermediate
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
	for {
		chains, _, err := a.issue(0, order{id: ControllerID(a.cfg.TrustDomain, a.cfg.Name), key: &key.PublicKey, hosts: hosts, own: true})
		if err != nil {
			return nil, err
		}
		leaf, err := x509.ParseCertificate(chains[0][0])
		if err != nil {
			return nil, err
		}
		h := a.held()
		if !bytes.Equal(h.intermediate.Raw, chains[0][1]) {
			continue // it was rotated meanwhile
		}
		return &tls.Certificate{Certificate: append([][]byte{chains[0][0]}, h.serverChain()...), PrivateKey: key, Leaf: leaf}, nil
	}
}
