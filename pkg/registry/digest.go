package registry

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Hash names the content of a registration: SHA-256 over its fields, each with its length before it. It is
// not made of the encoded message, whose bytes protobuf does not promise to be the same between versions.
func Hash(in *snapshot.Instance) [32]byte {
	var b []byte
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	number := func(n int) { b = binary.AppendUvarint(b, uint64(n)) }
	text(in.GetService())
	text(in.GetNode())
	text(in.GetInstance())
	number(len(in.GetLabels()))
	for _, key := range slices.Sorted(maps.Keys(in.GetLabels())) {
		text(key)
		text(in.GetLabels()[key])
	}
	number(len(in.GetPorts()))
	for _, p := range in.GetPorts() {
		number(int(p.GetNumber()))
		text(p.GetName())
		number(int(p.GetProtocol()))
		text(p.GetAddress())
	}
	text(in.GetLaneAddress())
	text(fmt.Sprint(in.GetUnhealthy()))
	text(in.GetHealthDetail())
	if g := in.GetGateway(); g != nil {
		text(g.GetAddress())
		number(len(g.GetPorts()))
		for _, p := range g.GetPorts() {
			number(int(p.GetNumber()))
			text(p.GetProblem())
		}
		if len(g.GetSealingKey()) > 0 {
			text(string(g.GetSealingKey()))
		}
	}
	if in.GetEgress() {
		text("egress")
	}
	if in.GetZone() != "" || in.GetRegion() != "" {
		text("zone")
		text(in.GetZone())
		text(in.GetRegion())
	}
	if in.GetWeight() != 0 { // what nodes of before cannot say has no part in the hash
		text("weight")
		number(int(in.GetWeight()))
	}
	return sha256.Sum256(b)
}

// Digest names a set of registrations by the hash of each: SHA-256 over keys and hashes in the order of
// keys. A node and a controller that hold the same have the same digest.
func Digest(set map[Key][32]byte) []byte {
	h := sha256.New()
	keys := slices.SortedFunc(maps.Keys(set), func(a, b Key) int {
		if c := compareNames(a.Service, b.Service); c != 0 {
			return c
		}
		return compare(a.Name, b.Name)
	})
	for _, key := range keys {
		hash := set[key]
		fmt.Fprintf(h, "%s\x00%s\x00", key.Service, key.Name) // names hold no zero byte
		h.Write(hash[:])
	}
	return h.Sum(nil)
}

func compareNames(a, b exchange.ServiceName) int {
	if c := compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return compare(a.Name, b.Name)
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
