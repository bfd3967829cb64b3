package node

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A store keeps in node.db what the node must have to serve while the bus is away: the signed messages that
// it follows, verified again at each start, and the services that were registered at run time.
type store struct {
	db *bbolt.DB
	// unkept is why some of the newest configuration could not be kept, nil where all is: the node serves with
	// it, and would start with an older one.
	unkept atomic.Pointer[error]
	mu     sync.Mutex // guards owed
	// owed is that configuration, by subject, which is written with whatever is kept next, or by retry.
	owed map[string][]snapshot.Raw
}

var (
	snapshotsBucket = []byte("snapshots") // subject → Kept messages
	lanesBucket     = []byte("lanes")     // what lanes keep across restarts
	servicesBucket  = []byte("services")  // key → document of services.d
	workloadsBucket = []byte("workloads") // service → ca.Credential of its processes
)

func openStore(dir string) (*store, error) {
	file := filepath.Join(dir, "node.db")
	db, err := ca.OpenDB(file, "what the node keeps", "remove it, and the node asks the controllers again (what was registered with `sennit service register` is to be registered again)")
	if err != nil {
		return nil, err
	}
	if err := prepare(db); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare %s: %w (is the disk full?)", file, err), db.Close())
	}
	return &store{db: db, owed: map[string][]snapshot.Raw{}}, nil
}

// prepare makes what is missing in the file. It writes nothing where all is there: a node starts on a full disk too.
func prepare(db *bbolt.DB) error {
	names := [][]byte{snapshotsBucket, servicesBucket, lanesBucket, workloadsBucket}
	missing := false
	err := db.View(func(tx *bbolt.Tx) error {
		missing = slices.ContainsFunc(names, func(name []byte) bool { return tx.Bucket(name) == nil })
		return nil
	})
	if err != nil || !missing {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range names {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// snapshots returns all kept messages.
func (s *store) snapshots() ([]snapshot.Raw, error) {
	var all []snapshot.Raw
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(snapshotsBucket).ForEach(func(_, value []byte) error {
			var kept Kept
			if err := proto.Unmarshal(value, &kept); err != nil {
				return err
			}
			for _, m := range kept.GetMessages() {
				all = append(all, snapshot.Raw{Subject: m.GetSubject(), Data: m.GetData()})
			}
			return nil
		})
	})
	return all, err
}

// keep replaces what is kept of a subject; no messages remove it. What could not be written is tried again with
// every later call, and by retry.
func (s *store) keep(subject string, messages []snapshot.Raw) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owed[subject] = messages
	return s.write()
}

// keepAgain is how often what could not be kept is tried again: whoever made room waits no longer for the message to go.
const keepAgain = 5 * time.Second

// retry tries to write what is owed, until ctx ends.
func (s *store) retry(ctx context.Context) error {
	tick := time.NewTicker(keepAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s.unkept.Load() == nil {
			continue
		}
		s.mu.Lock()
		_ = s.write() // unkept says so
		s.mu.Unlock()
	}
}

// write keeps all that is owed. The caller holds mu.
func (s *store) write() error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for subject, messages := range s.owed {
			if err := put(tx.Bucket(snapshotsBucket), subject, messages); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.unkept.Store(&err)
		return err
	}
	clear(s.owed)
	s.unkept.Store(nil)
	return nil
}

func put(bucket *bbolt.Bucket, subject string, messages []snapshot.Raw) error {
	if len(messages) == 0 {
		return bucket.Delete([]byte(subject))
	}
	var kept Kept
	for _, m := range messages {
		kept.Messages = append(kept.Messages, &KeptMessage{Subject: m.Subject, Data: m.Data})
	}
	value, err := proto.Marshal(&kept)
	if err != nil {
		return err
	}
	return bucket.Put([]byte(subject), value)
}

// A sealer seals the keys that a node keeps (*ca.Identity).
type sealer interface {
	Seal(purpose string, plain []byte) []byte
	Open(purpose string, value []byte) ([]byte, error)
}

const sealingKeyPurpose = "key that gateways' keys are sealed to"

// sealingKey is what private keys of gateways are sealed to for this node. It is made once.
func (s *store) sealingKey(by sealer) (key *ecdh.PrivateKey, err error) {
	err = s.once("sealing-key", func(kept []byte) (made []byte, err error) {
		if kept != nil {
			if kept, err = by.Open(sealingKeyPurpose, kept); err == nil {
				key, err = ecdh.X25519().NewPrivateKey(kept)
			}
			return nil, err
		}
		if key, err = snapshot.NewSealingKey(); err != nil {
			return nil, err
		}
		return by.Seal(sealingKeyPurpose, key.Bytes()), nil
	})
	return key, err
}

// resetKey makes the tokens by which peers notice at once that this process replaced another. It is made once.
func (s *store) resetKey() (*[32]byte, error) {
	key := new([32]byte)
	return key, s.once("reset-key", func(kept []byte) ([]byte, error) {
		if copy(key[:], kept) == len(key) {
			return nil, nil
		}
		_, err := rand.Read(key[:])
		return key[:], err
	})
}

// once hands over what is kept of a name, nil where that is nothing, and keeps what take makes in its place, if anything.
func (s *store) once(name string, take func(kept []byte) (made []byte, err error)) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(lanesBucket)
		made, err := take(bucket.Get([]byte(name)))
		if err != nil || made == nil {
			return err
		}
		return bucket.Put([]byte(name), made)
	})
}

// Load, Save and Delete keep services registered at run time (registry.Store).
func (s *store) Load() (map[string][]byte, error) {
	all := map[string][]byte{}
	return all, s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(servicesBucket).ForEach(func(key, value []byte) error {
			all[string(key)] = append([]byte(nil), value...)
			return nil
		})
	})
}

// Save stores one document.
func (s *store) Save(key string, document []byte) error {
	return s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(servicesBucket).Put([]byte(key), document) })
}

// Delete removes one document.
func (s *store) Delete(key string) error {
	return s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(servicesBucket).Delete([]byte(key)) })
}

func (s *store) close() error { return s.db.Close() }
