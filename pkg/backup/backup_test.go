package backup

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
)

func macOf(key string) func([]byte) []byte {
	return func(digest []byte) []byte {
		h := hmac.New(sha256.New, []byte(key))
		h.Write(digest)
		return h.Sum(nil)
	}
}

func made(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out)
	authority := []byte("sealed")
	err := w.Authority(int64(len(authority)), func(to io.Writer) error {
		_, err := to.Write(authority)
		return err
	})
	for _, part := range []struct{ stream, data string }{{"ONE", "first"}, {"ONE", "second"}, {"TWO", "third"}} {
		err = errors.Join(err, w.Part(part.stream, []byte(part.data)))
		w.State(7, 9)
	}
	err = errors.Join(err, w.End(Manifest{Cluster: "shop", Epoch: 3}, macOf("key")))
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func opened(data []byte, key string) (*File, error) {
	f, err := Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	return f, f.Authentic(macOf(key))
}

func TestRoundTrip(t *testing.T) {
	f, err := opened(made(t), "key")
	if err != nil {
		t.Fatal(err)
	}
	var authority bytes.Buffer
	if err := f.Authority(&authority); err != nil || authority.String() != "sealed" {
		t.Errorf("authority: %q, %v", authority.String(), err)
	}
	var parts []string
	if err := f.Parts("ONE", func(data []byte) error { parts = append(parts, string(data)); return nil }); err != nil || len(parts) != 2 || parts[1] != "second" {
		t.Errorf("parts %q, %v", parts, err)
	}
	if m := f.Manifest; m.Cluster != "shop" || m.Epoch != 3 || len(m.Streams) != 2 || m.Streams[0] != (Stream{"ONE", 7, 9, 2}) {
		t.Errorf("manifest %+v", m)
	}
}

// TestDamage changes every byte, one after the other, and cuts the file off at every length.
func TestDamage(t *testing.T) {
	whole := made(t)
	for i := range whole {
		spoilt := bytes.Clone(whole)
		spoilt[i] ^= 0x40
		if _, err := opened(spoilt, "key"); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d of %d changed: %v", i, len(whole), err)
		}
	}
	for n := range whole {
		if _, err := opened(whole[:n], "key"); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Fatalf("cut off behind %d of %d bytes: %v", n, len(whole), err)
		}
	}
	if _, err := opened(append(bytes.Clone(whole), 0), "key"); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
}

// TestAuthentic takes a file whose checksum is right and that was made without the key.
func TestAuthentic(t *testing.T) {
	if _, err := opened(made(t), "another key"); !errors.Is(err, ErrDamaged) {
		t.Errorf("with another key: %v", err)
	}
}
