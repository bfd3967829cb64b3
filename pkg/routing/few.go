package routing

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// maxNodes is how many nodes of a callee this node calls at most: each is a lane, which costs both ends memory
// and a handshake.
const maxNodes = 32

// few returns the members on maxNodes nodes. Which ones depends on this node's name, so that the nodes of many
// callers use all of a callee's alike; and on nothing else, so that a node that goes makes place for one other and
// moves none (rendezvous hashing). Members of one node stay together: they share its lane.
func (t *Table) few(members []member) []member {
	scores := make(map[string]uint64)
	for _, m := range members {
		if _, known := scores[m.instance.Node]; !known {
			scores[m.instance.Node] = score(t.Node, m.instance.Node)
		}
	}
	if len(scores) <= maxNodes {
		return members
	}
	nodes := make([]string, 0, len(scores))
	for node := range scores {
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b string) int {
		return cmp.Or(cmp.Compare(scores[b], scores[a]), cmp.Compare(a, b))
	})
	for _, node := range nodes[maxNodes:] {
		delete(scores, node)
	}
	var kept []member
	for _, m := range members {
		if _, keep := scores[m.instance.Node]; keep {
			kept = append(kept, m)
		}
	}
	return kept
}

// score is how much a caller's node likes a callee's.
func score(caller, callee string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(caller)) // never fails
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(callee))
	// The high bits of FNV hardly know of the last byte: names often differ by that alone.
	return mixed(h.Sum64())
}
