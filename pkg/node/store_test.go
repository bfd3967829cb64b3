package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// What could not be kept is owed until it is: another subject's success says nothing about it.
func TestKeepTriesAgain(t *testing.T) {
	s, err := openStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	// bbolt refuses such a key, as it refuses everything on a full disk.
	refused := strings.Repeat("x", 40_000)
	if s.keep(refused, []snapshot.Raw{{Subject: refused}}) == nil || s.unkept.Load() == nil {
		t.Fatal("a write that cannot be made is taken for one that was")
	}
	if s.keep("other", []snapshot.Raw{{Subject: "other", Data: []byte{1}}}) == nil || s.unkept.Load() == nil {
		t.Error("one subject was kept, and what another owes is forgotten")
	}
	delete(s.owed, refused) // as if there were place again
	if err := s.keep("third", nil); err != nil || s.unkept.Load() != nil || len(s.owed) != 0 {
		t.Errorf("%v, owed %v", err, s.owed)
	}
	if kept, err := s.snapshots(); err != nil || len(kept) != 1 || kept[0].Subject != "other" {
		t.Errorf("kept %v, %v", kept, err)
	}
}

// A node starts from a file that takes nothing more.
func TestStoreOpensOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.keep("some", []snapshot.Raw{{Subject: "some", Data: []byte{1}}}), s.close()); err != nil {
		t.Fatal(err)
	}
	full, err := bbolt.Open(filepath.Join(dir, "node.db"), 0o600, &bbolt.Options{OpenFile: func(name string, _ int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, os.O_RDONLY, mode)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = full.Close() })
	if err := prepare(full); err != nil {
		t.Error(err)
	}
	if err := full.Update(func(tx *bbolt.Tx) error { return tx.Bucket(snapshotsBucket).Put([]byte("k"), nil) }); err == nil {
		t.Error("the file takes more, so that nothing was shown")
	}
}
