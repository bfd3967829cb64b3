package mesh

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Traffic is what was found between hosts. Faults are whatever is neither QUIC on the lanes' port, nor TLS over
// TCP to the bus or to the lanes' port, nor the resolution of addresses.
type Traffic struct {
	Datagrams  int // QUIC
	Handshakes int // of the datagrams: with a long header
	Segments   int // TCP from or to the bus
	Records    int // TLS records in these
	Lanes      int // TLS records of lanes over TCP
	Missed     int // datagrams between lanes' ports that the recording was too slow for
	Faults     []string
	more       int // faults behind the first few

	busPort uint16
	streams map[[2]netip.AddrPort]*stream
}

func newTraffic(busPort uint16) *Traffic {
	return &Traffic{busPort: busPort, streams: map[[2]netip.AddrPort]*stream{}}
}

func (t *Traffic) String() string {
	return fmt.Sprintf("%d QUIC datagrams (%d of handshakes, %d more not looked at), %d TCP segments of the bus with %d TLS records, %d TLS records of lanes, faults: %d",
		t.Datagrams, t.Handshakes, t.Missed, t.Segments, t.Records, t.Lanes, len(t.Faults)+t.more)
}

func (t *Traffic) fault(format string, args ...any) {
	if len(t.Faults) < 20 {
		t.Faults = append(t.Faults, fmt.Sprintf(format, args...))
		return
	}
	t.more++
}

const (
	etherIP, etherARP = 0x0800, 0x0806
	protoTCP          = 6
	protoUDP          = 17
)

// frame looks at one Ethernet frame.
func (t *Traffic) frame(f []byte) {
	if len(f) < 14 {
		t.fault("frame of %d bytes", len(f))
		return
	}
	switch kind := binary.BigEndian.Uint16(f[12:]); kind {
	case etherIP:
		t.packet(f[14:])
	case etherARP:
	default:
		t.fault("frame of type %#04x", kind)
	}
}

// packet looks at one IPv4 packet.
func (t *Traffic) packet(p []byte) {
	if len(p) < 20 || p[0]>>4 != 4 || len(p) < int(p[0]&15)*4 {
		t.fault("packet that is not IPv4: %x", p[:min(len(p), 20)])
		return
	}
	// A packet that the sender's host would have segmented later may say 0 or too little.
	if length := int(binary.BigEndian.Uint16(p[2:])); length >= 20 && length <= len(p) {
		p = p[:length]
	}
	from, to := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	protocol, fragment, rest := p[9], binary.BigEndian.Uint16(p[6:])&0x3fff, p[int(p[0]&15)*4:]
	if fragment != 0 || len(rest) < 8 {
		t.fault("fragment from %s to %s", from, to)
		return
	}
	source := netip.AddrPortFrom(from, binary.BigEndian.Uint16(rest))
	target := netip.AddrPortFrom(to, binary.BigEndian.Uint16(rest[2:]))
	switch {
	case protocol == protoUDP && source.Port() == lanesPort && target.Port() == lanesPort:
		t.datagram(source, target, rest[8:])
	case protocol == protoTCP && len(rest) >= 20 && int(rest[12]>>4)*4 <= len(rest) && of(t.busPort, source, target):
		t.Segments++
		t.Records += t.segment(source, target, rest)
	case protocol == protoTCP && len(rest) >= 20 && int(rest[12]>>4)*4 <= len(rest) && of(lanesPort, source, target):
		t.Lanes += t.segment(source, target, rest)
	default:
		t.fault("protocol %d from %s to %s: %.100q", protocol, source, target, rest)
	}
}

// of reports whether a segment is from or to a port.
func of(port uint16, source, target netip.AddrPort) bool {
	return source.Port() == port || target.Port() == port
}

// datagram looks at what must be QUIC version 1 (RFC 9000 §17). A short header begins with 01 and a connection
// ID, whose first byte is the generation of the process, here 0; a stateless reset ends like one and is short.
func (t *Traffic) datagram(source, target netip.AddrPort, d []byte) {
	t.Datagrams++
	switch {
	case len(d) < 21:
		t.fault("datagram from %s to %s is too short for QUIC: %x", source, target, d)
	case d[0]&0x40 == 0:
		t.fault("datagram from %s to %s has no fixed bit: %x", source, target, d[:20])
	case d[0]&0x80 != 0:
		t.Handshakes++
		if version := binary.BigEndian.Uint32(d[1:]); version != 1 {
			t.fault("long header from %s to %s is of version %#x", source, target, version)
		}
	case d[1] != 0 && len(d) > longestReset:
		t.fault("short header from %s to %s names no connection of a node: %x", source, target, d[:20])
	}
	if text := plainText(d); text != "" {
		t.fault("datagram from %s to %s holds %q", source, target, text)
	}
}

// longestReset is the length of a stateless reset, at the most: it is shorter than what it answers, and nodes
// send it in answer to short ones only.
const longestReset = 43

// plainText returns text that no ciphertext holds: 32 printable characters in a row are found in random bytes
// once in 10¹³.
func plainText(b []byte) string {
	if i := bytes.Index(b, []byte("HTTP/1.")); i >= 0 {
		return string(b[max(0, i-20):min(len(b), i+40)])
	}
	const most = 32
	run := 0
	for i, c := range b {
		if run++; c < ' ' || c > '~' {
			run = 0
		}
		if run == most {
			return string(b[i+1-most : i+1])
		}
	}
	return ""
}

// A stream is one direction of a TCP connection.
type stream struct {
	next    uint32            // the sequence number that is due
	waiting map[uint32][]byte // what came before it was due
	records records
}

// segment follows one TCP segment, and returns how many TLS records it completes.
func (t *Traffic) segment(source, target netip.AddrPort, s []byte) (records int) {
	key := [2]netip.AddrPort{source, target}
	sequence, flags, payload := binary.BigEndian.Uint32(s[4:]), s[13], s[int(s[12]>>4)*4:]
	const syn, rst = 2, 4
	if flags&syn != 0 {
		t.streams[key] = &stream{next: sequence + 1, waiting: map[uint32][]byte{}}
		return 0
	}
	if len(payload) == 0 || flags&rst != 0 {
		return 0
	}
	f := t.streams[key]
	if f == nil {
		t.fault("connection from %s to %s began before the recording", source, target)
		return 0
	}
	f.waiting[sequence] = append([]byte(nil), payload...)
	for progress := true; progress; {
		progress = false
		for at, part := range f.waiting {
			if ahead := int32(at - f.next); ahead > 0 {
				continue
			}
			delete(f.waiting, at)
			if fresh := int32(at + uint32(len(part)) - f.next); fresh > 0 {
				part = part[len(part)-int(fresh):]
				f.next += uint32(fresh)
				n, err := f.records.take(part)
				records += n
				if err != nil && !f.records.failed {
					f.records.failed = true
					t.fault("from %s to %s: %v", source, target, err)
				}
				progress = true
			}
		}
	}
	return records
}

// records follows the TLS records of one direction (RFC 8446 §5.1).
type records struct {
	head   []byte // of a header that is not whole
	left   int    // of the record that runs
	failed bool
}

func (r *records) take(p []byte) (whole int, err error) {
	for len(p) > 0 && !r.failed {
		if r.left > 0 {
			n := min(r.left, len(p))
			r.left, p = r.left-n, p[n:]
			continue
		}
		n := min(5-len(r.head), len(p))
		r.head, p = append(r.head, p[:n]...), p[n:]
		if len(r.head) < 5 {
			break
		}
		kind, version, length := r.head[0], binary.BigEndian.Uint16(r.head[1:]), int(binary.BigEndian.Uint16(r.head[3:]))
		if kind < 20 || kind > 23 || version < 0x0301 || version > 0x0303 || length == 0 || length > 16384+256 {
			return whole, fmt.Errorf("no TLS record: %.60q", append(r.head, p...))
		}
		r.head, r.left = r.head[:0], length
		whole++
	}
	return whole, nil
}

// finish looks at what must be there at the end.
func (t *Traffic) finish() {
	for key, f := range t.streams {
		if len(f.waiting) > 0 {
			t.fault("from %s to %s: segments are missing", key[0], key[1])
		}
	}
	if t.Datagrams+t.Lanes == 0 || t.Records == 0 {
		t.fault("nothing was recorded: %s", t)
	}
}
