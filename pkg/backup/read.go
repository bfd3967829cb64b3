package backup

import (
	"archive/tar"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

const trailer = 2 * sha256.Size

// A File is a backup that was checked. It is owned by one goroutine.
type File struct {
	Manifest Manifest

	archive     io.ReaderAt
	size        int64 // of the archive, without the trailer
	digest, mac []byte
}

// Open reads all of a backup of size bytes once, and returns it where nothing is damaged. Whoever restores it calls
// Authentic as well.
func Open(r io.ReaderAt, size int64) (*File, error) {
	if size <= trailer {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrFormat, size)
	}
	f := &File{archive: r, size: size - trailer}
	end := make([]byte, trailer)
	if _, err := r.ReadAt(end, f.size); err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	f.digest, f.mac = end[:sha256.Size], end[sha256.Size:]
	sum := sha256.New()
	if _, err := io.Copy(sum, f.reader()); err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), f.digest) {
		return nil, damaged("its checksum is not that of its contents: it was cut off, or a byte was changed; take another copy")
	}
	return f, f.readManifest()
}

func (f *File) reader() *io.SectionReader { return io.NewSectionReader(f.archive, 0, f.size) }

// readManifest finds the manifest, and makes sure that the archive is what it says.
func (f *File) readManifest() error {
	var streams []Stream
	entries := tar.NewReader(f.reader())
	for n := 0; ; n++ {
		header, err := entries.Next()
		switch {
		case err != nil:
			return fmt.Errorf("%w: it has no manifest (%w)", ErrFormat, err)
		case n == 0:
			if header.Name != authorityEntry || header.Size > maxAuthority {
				return fmt.Errorf("%w: it begins with %q of %d bytes", ErrFormat, header.Name, header.Size)
			}
		case header.Name == manifestEntry:
			if header.Size > maxManifest {
				return damaged("its manifest has %d bytes", header.Size)
			}
			if err := json.NewDecoder(entries).Decode(&f.Manifest); err != nil {
				return damaged("its manifest: %v", err)
			}
			return f.compare(streams)
		default:
			if streams, err = count(streams, header); err != nil {
				return err
			}
		}
	}
}

// count takes in a part of a stream.
func count(streams []Stream, header *tar.Header) ([]Stream, error) {
	stream, _, ok := strings.Cut(strings.TrimPrefix(header.Name, streamsFolder), "/")
	if !ok || header.Size == 0 || header.Size > MaxPart {
		return nil, damaged("an entry %q of %d bytes", header.Name, header.Size)
	}
	if n := len(streams); n == 0 || streams[n-1].Name != stream {
		streams = append(streams, Stream{Name: stream})
	}
	s := &streams[len(streams)-1]
	if s.Parts++; header.Name != partName(stream, s.Parts) {
		return nil, damaged("%s where part %d of %s belongs", header.Name, s.Parts, stream)
	}
	return streams, nil
}

func (f *File) compare(streams []Stream) error {
	m := f.Manifest
	if m.Format != Format {
		return fmt.Errorf("%w: it is of format %d, and this program reads %d", ErrFormat, m.Format, Format)
	}
	if len(m.Streams) != len(streams) {
		return damaged("its manifest names %d streams, and it holds %d", len(m.Streams), len(streams))
	}
	for i, s := range streams {
		if m.Streams[i].Name != s.Name || m.Streams[i].Parts != s.Parts {
			return damaged("its manifest says %s in %d parts, and it holds %s in %d", m.Streams[i].Name, m.Streams[i].Parts, s.Name, s.Parts)
		}
	}
	return nil
}

// Authentic makes sure that a controller which had the sealing key wrote the file. mac makes the MAC of a digest.
func (f *File) Authentic(mac func(digest []byte) []byte) error {
	if !hmac.Equal(mac(f.digest), f.mac) {
		return damaged("no controller with this sealing key wrote it so: its last 32 bytes, or more, were changed")
	}
	return nil
}

// Authority writes the authority's file to w.
func (f *File) Authority(w io.Writer) error {
	entries := tar.NewReader(f.reader())
	if _, err := entries.Next(); err != nil {
		return err
	}
	_, err := io.Copy(w, entries)
	return err
}

// Parts calls fn for every part of a stream, in order. fn must not keep data.
func (f *File) Parts(stream string, fn func(data []byte) error) error {
	entries := tar.NewReader(f.reader())
	var data bytes.Buffer
	for {
		header, err := entries.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case !strings.HasPrefix(header.Name, streamsFolder+stream+"/"):
			continue
		}
		data.Reset()
		if _, err := data.ReadFrom(entries); err != nil {
			return err
		}
		if err := fn(data.Bytes()); err != nil {
			return err
		}
	}
}
