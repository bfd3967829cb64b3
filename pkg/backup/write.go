package backup

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
)

// A Writer writes one backup. Call Authority once, Part for each part of each stream in order, and End. After an error
// what was written is no backup. It is owned by one goroutine.
type Writer struct {
	out     io.Writer
	sum     hash.Hash
	archive *tar.Writer
	streams []Stream
}

// NewWriter begins a backup.
func NewWriter(w io.Writer) *Writer {
	sum := sha256.New()
	return &Writer{out: w, sum: sum, archive: tar.NewWriter(io.MultiWriter(w, sum))}
}

// Authority writes the authority's file of size bytes, which write gives.
func (w *Writer) Authority(size int64, write func(io.Writer) error) error {
	if err := w.header(authorityEntry, size); err != nil {
		return err
	}
	return write(w.archive)
}

// Part writes the next part of a stream; those of one stream follow each other.
func (w *Writer) Part(stream string, data []byte) error {
	if len(data) == 0 || len(data) > MaxPart {
		return fmt.Errorf("write a backup: a part of %d bytes, want 1 to %d", len(data), MaxPart)
	}
	if n := len(w.streams); n == 0 || w.streams[n-1].Name != stream {
		w.streams = append(w.streams, Stream{Name: stream})
	}
	s := &w.streams[len(w.streams)-1]
	s.Parts++
	if err := w.header(partName(stream, s.Parts), int64(len(data))); err != nil {
		return err
	}
	_, err := w.archive.Write(data)
	return err
}

func partName(stream string, n int) string { return fmt.Sprintf("%s%s/%08d", streamsFolder, stream, n) }

// State says what the stream held whose parts were written last.
func (w *Writer) State(messages, last uint64) {
	s := &w.streams[len(w.streams)-1]
	s.Messages, s.Last = messages, last
}

// End writes the manifest and the trailer. mac makes the MAC of a digest. Format and Streams are set here.
func (w *Writer) End(m Manifest, mac func(digest []byte) []byte) error {
	m.Format, m.Streams = Format, w.streams
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := w.header(manifestEntry, int64(len(data))); err != nil {
		return err
	}
	if _, err := w.archive.Write(data); err != nil {
		return err
	}
	if err := w.archive.Close(); err != nil {
		return err
	}
	digest := w.sum.Sum(nil)
	code := mac(digest)
	if len(code) != sha256.Size {
		return errors.New("write a backup: a MAC has 32 bytes")
	}
	_, err = w.out.Write(append(digest, code...))
	return err
}

func (w *Writer) header(name string, size int64) error {
	return w.archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, Format: tar.FormatPAX})
}
