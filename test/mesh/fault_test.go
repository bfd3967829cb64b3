package mesh

import (
	"container/heap"
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestScheduleShares holds the shares of what is lost, late and doubled within what chance allows.
func TestScheduleShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		share := rapid.Float64Range(0, 0.5)
		f := Fault{Loss: share.Draw(t, "loss"), Reorder: share.Draw(t, "reorder"), Duplicate: share.Draw(t, "duplicate"),
			Delay: time.Duration(rapid.IntRange(0, 100).Draw(t, "delay")) * time.Millisecond}
		plan := newSchedule(rapid.Uint64().Draw(t, "seed"), 1)
		const packets = 4000
		var lost, late, twice int
		for range packets {
			due, n := plan.next(&f, 1500)
			switch {
			case n == 0:
				lost++
				continue
			case n == 2:
				twice++
			}
			if due[0] > f.Delay {
				late++
			}
			for _, at := range due[:n] {
				if at < f.Delay || at > f.Delay+2*jitter {
					t.Fatalf("due after %s with a delay of %s", at, f.Delay)
				}
			}
		}
		within := func(what string, got, of int, p float64) {
			n := float64(of)
			// Seven deviations: once in 10¹¹.
			if off := math.Abs(float64(got) - n*p); off > 7*math.Sqrt(n*p*(1-p))+1 {
				t.Fatalf("%s: %d of %d with a share of %f", what, got, of, p)
			}
		}
		within("lost", lost, packets, f.Loss)
		within("late", late, packets-lost, f.Reorder)
		within("twice", twice, packets-lost, f.Duplicate)
	})
}

// TestScheduleIsOfTheSeed has the same seed give the same fates, whatever the fault was before.
func TestScheduleIsOfTheSeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, stream := rapid.Uint64().Draw(t, "seed"), rapid.Uint64().Draw(t, "stream")
		a, b := newSchedule(seed, stream), newSchedule(seed, stream)
		for range rapid.IntRange(0, 100).Draw(t, "before") {
			a.next(&Fault{Down: true}, 100)
			b.next(&Fault{}, 1500)
		}
		f := Fault{Loss: 0.3, Reorder: 0.3, Duplicate: 0.3, Delay: time.Millisecond}
		for range 100 {
			dueA, nA := a.next(&f, 100)
			dueB, nB := b.next(&f, 1500)
			if dueA != dueB || nA != nB {
				t.Fatalf("%v and %v", dueA[:nA], dueB[:nB])
			}
		}
	})
}

// TestScheduleWithoutFaults loses, doubles and reorders nothing where it is not told to.
func TestScheduleWithoutFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := Fault{Delay: time.Duration(rapid.IntRange(0, 50).Draw(t, "delay")) * time.Millisecond, MTU: rapid.SampledFrom([]int{0, 1280}).Draw(t, "mtu")}
		plan := newSchedule(rapid.Uint64().Draw(t, "seed"), 0)
		var queue dueQueue
		now := time.Unix(0, 0)
		gaps := rapid.SliceOfN(rapid.IntRange(0, 3), 100, 100).Draw(t, "gaps")
		for i, gap := range gaps {
			now = now.Add(time.Duration(gap) * time.Millisecond)
			due, n := plan.next(&f, 1280)
			if n != 1 {
				t.Fatalf("%d copies", n)
			}
			heap.Push(&queue, duePacket{now.Add(due[0]), uint64(i), nil})
		}
		for i := range gaps {
			if got := heap.Pop(&queue).(duePacket).order; got != uint64(i) {
				t.Fatalf("packet %d comes as number %d", got, i)
			}
		}
		if _, n := plan.next(&f, 1281); (n == 0) != (f.MTU != 0) {
			t.Fatalf("%d copies of a packet of 1281 bytes with MTU %d", n, f.MTU)
		}
	})
}

// TestTranslate keeps the checksum of a datagram right when its port changes, also one that a card was to complete.
func TestTranslate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "payload")
		from, to := rapid.Uint16().Draw(t, "from"), rapid.Uint16().Draw(t, "to")
		frame := make([]byte, ethernet+20+8, ethernet+20+8+len(payload))
		frame = append(frame, payload...)
		binary.BigEndian.PutUint16(frame[12:], etherIP)
		packet := frame[ethernet:]
		packet[0], packet[9] = 0x45, protoUDP
		copy(packet[12:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "addresses"))
		udp := packet[20:]
		binary.BigEndian.PutUint16(udp, from)
		binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
		binary.BigEndian.PutUint16(udp[6:], pseudo(packet))
		complete(frame, ethernet+20, 6)
		if sum := binary.BigEndian.Uint16(udp[6:]); sum == 0 || !right(packet) {
			t.Fatalf("checksum %#04x of %x is wrong", sum, packet)
		}
		before := slices.Clone(frame)
		translate(frame, 0, from, to)
		if binary.BigEndian.Uint16(udp) != to || !right(packet) {
			t.Fatalf("%x became %x", before, frame)
		}
		translate(frame, 0, from+1, 1)
		translate(frame, 0, to, from)
		if to != from+1 && !slices.Equal(frame, before) {
			t.Fatalf("%x became %x there and back", before, frame)
		}
	})
}

// pseudo is the sum of an UDP packet's pseudo header.
func pseudo(packet []byte) uint16 {
	sum := uint32(protoUDP) + uint32(len(packet)-20)
	for i := 12; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	return fold(sum)
}

// right reports whether everything adds up, as a receiver looks at it.
func right(packet []byte) bool {
	sum := uint32(pseudo(packet))
	for rest := packet[20:]; len(rest) > 0; {
		if len(rest) == 1 {
			sum += uint32(rest[0]) << 8
			break
		}
		sum += uint32(binary.BigEndian.Uint16(rest))
		rest = rest[2:]
	}
	return fold(sum) == 0xffff
}
