package snapshot

import (
	"bytes"
	"testing"
)

// TestKeysAreSealedToOneNode: no other node opens a gateway's key, and none as another gateway's.
func TestKeysAreSealedToOneNode(t *testing.T) {
	mine, err := NewSealingKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewSealingKey()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := SealKey(mine.PublicKey().Bytes(), "shop/edge", []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenKey(mine, "shop/edge", sealed); err != nil || string(got) != "key" {
		t.Errorf("%q, %v", got, err)
	}
	if bytes.Contains(sealed, []byte("key")) {
		t.Error("it is not sealed")
	}
	if _, err := OpenKey(other, "shop/edge", sealed); err == nil {
		t.Error("another node opened it")
	}
	if _, err := OpenKey(mine, "shop/other", sealed); err == nil {
		t.Error("it opened for another gateway")
	}
	for _, bad := range [][]byte{nil, {1}, make([]byte, 32)} {
		if _, err := SealKey(bad, "shop/edge", []byte("key")); err == nil {
			t.Errorf("sealed to %x", bad)
		}
		if _, err := OpenKey(mine, "shop/edge", bad); err == nil {
			t.Errorf("opened %x", bad)
		}
	}
}
