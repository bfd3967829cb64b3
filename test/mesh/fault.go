package mesh

import (
	"encoding/binary"
	"math/rand/v2"
	"time"
)

// A Fault is what the wire of a host does to IP packets. The zero value does nothing. Resolution of addresses is
// never disturbed: hosts of a mesh stand for hosts that have routers between them, and a host's kernel would tell
// its programs of a neighbour that is gone, which no router does.
type Fault struct {
	Loss      float64       // share of packets that are lost
	Duplicate float64       // share of packets that come twice, the second time up to jitter later
	Reorder   float64       // share of packets that come up to jitter later than they should, so that others overtake them
	Delay     time.Duration // of every packet
	MTU       int           // longer packets are lost without a word, in bytes of IP; 0: none are
	Down      bool          // everything is lost
	// Port is what a translator of addresses makes of the port of the lanes in what the host sends over UDP, and
	// undoes in what comes back; what comes to the port of the lanes itself is lost. 0: it stays.
	Port uint16
}

// jitter is how much later a packet comes, at the most, that is reordered or duplicated.
const jitter = 10 * time.Millisecond

// A schedule decides what becomes of one packet after the other. What it draws depends on the seed and on how many
// packets there were, never on what they were, so that the same packet meets the same fate when a fault changes.
type schedule struct{ rand *rand.Rand }

func newSchedule(seed, stream uint64) *schedule {
	return &schedule{rand.New(rand.NewPCG(seed, stream))}
}

// next is when the copies of a packet of so many bytes are due, counted from now. There are n: none, one or two.
func (s *schedule) next(f *Fault, size int) (due [2]time.Duration, n int) {
	lost, late, twice := s.rand.Float64(), s.rand.Float64(), s.rand.Float64()
	first, second := s.rand.Float64(), s.rand.Float64()
	if f.Down || f.MTU > 0 && size > f.MTU || lost < f.Loss {
		return due, 0
	}
	due[0], n = f.Delay, 1
	if late < f.Reorder {
		due[0] += time.Duration(first * float64(jitter))
	}
	if twice < f.Duplicate {
		due[1], n = due[0]+time.Duration(second*float64(jitter)), 2
	}
	return due, n
}

// A due packet waits for its time.
type duePacket struct {
	at    time.Time
	order uint64 // of two that are due at once the one that came first goes first
	frame []byte
}

// A dueQueue is a heap (container/heap) whose first packet is due first.
type dueQueue []duePacket

func (q dueQueue) Len() int      { return len(q) }
func (q dueQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q dueQueue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].order < q[j].order
	}
	return q[i].at.Before(q[j].at)
}
func (q *dueQueue) Push(p any) { *q = append(*q, p.(duePacket)) }
func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	p := (*q)[last]
	(*q)[last] = duePacket{}
	*q = (*q)[:last]
	return p
}

// Where headers are in an Ethernet frame with an IPv4 packet.
const (
	ethernet   = 14
	addressLen = 4
	sourceAt   = ethernet + 12
	targetAt   = ethernet + 16
)

// isIP reports whether a frame holds an IPv4 packet.
func isIP(f []byte) bool {
	return len(f) >= ethernet+20 && binary.BigEndian.Uint16(f[12:]) == etherIP && f[ethernet]>>4 == 4
}

// udpOf returns the UDP datagram, header and all, of a frame that holds a whole one, or nil.
func udpOf(f []byte) []byte {
	if !isIP(f) || f[ethernet+9] != protoUDP || binary.BigEndian.Uint16(f[ethernet+6:])&0x3fff != 0 {
		return nil
	}
	datagram := f[min(len(f), ethernet+int(f[ethernet]&15)*4):]
	if len(datagram) < 8 {
		return nil
	}
	return datagram
}

// comesTo reports whether a frame holds a UDP datagram to a port.
func comesTo(f []byte, port uint16) bool {
	datagram := udpOf(f)
	return datagram != nil && binary.BigEndian.Uint16(datagram[2:]) == port
}

// translate puts another port into a frame's UDP datagram: that of its sender (at 0) or receiver (at 2). It reports whether
// there was something to do.
func translate(f []byte, at int, from, to uint16) bool {
	datagram := udpOf(f)
	if datagram == nil || binary.BigEndian.Uint16(datagram[at:]) != from {
		return false
	}
	binary.BigEndian.PutUint16(datagram[at:], to)
	if sum := binary.BigEndian.Uint16(datagram[6:]); sum != 0 { // 0: there is none
		changed := ^fold(uint32(^sum) + uint32(^from) + uint32(to)) // RFC 1624
		if changed == 0 {
			changed = 0xffff
		}
		binary.BigEndian.PutUint16(datagram[6:], changed)
	}
	return true
}

// complete writes the checksum that the sender's kernel left to its network card: over everything from start on,
// which the field, so far behind start, already has the sum of the pseudo header of (RFC 768, RFC 9293).
func complete(f []byte, start, field int) {
	if start < 0 || start+field+2 > len(f) {
		return
	}
	var sum uint32
	rest := f[start:]
	for ; len(rest) >= 2; rest = rest[2:] {
		sum += uint32(rest[0])<<8 | uint32(rest[1])
	}
	if len(rest) == 1 {
		sum += uint32(rest[0]) << 8
	}
	result := ^fold(sum)
	if result == 0 {
		result = 0xffff // for UDP 0 means that there is none; for TCP both are the same
	}
	binary.BigEndian.PutUint16(f[start+field:], result)
}

// fold adds the carries of a sum of 16-bit words.
func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
