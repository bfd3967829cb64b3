package snapshot

import (
	"crypto/sha256"
	"math/bits"
)

type hash = [sha256.Size]byte

// Leaves and nodes are hashed in domains of their own, so that no node can be shown as a leaf
// (RFC 9162 §2.1.1).
func leafHash(envelope []byte) hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(envelope)
	return hash(h.Sum(nil))
}

func nodeHash(left, right hash) hash {
	var in [1 + 2*sha256.Size]byte
	in[0] = 1
	copy(in[1:], left[:])
	copy(in[1+sha256.Size:], right[:])
	return sha256.Sum256(in[:])
}

// tree returns the root over leaves, of which there is at least one, and the path of each leaf up to it: a
// leaf's siblings from below (RFC 9162 §2.1.1 and §2.1.3.1).
func tree(leaves []hash) (root hash, paths [][][]byte) {
	paths = make([][][]byte, len(leaves))
	return subtree(leaves, paths), paths
}

func subtree(leaves []hash, paths [][][]byte) hash {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1 << (bits.Len(uint(len(leaves)-1)) - 1) // the largest power of two below the number of leaves
	left, right := subtree(leaves[:k], paths[:k]), subtree(leaves[k:], paths[k:])
	for i := range paths {
		sibling := right
		if i >= k {
			sibling = left
		}
		paths[i] = append(paths[i], sibling[:])
	}
	return nodeHash(left, right)
}

// rootOf computes the root that a leaf and its path lead to in a tree of that many leaves, and reports
// whether a path of that shape exists there (RFC 9162 §2.1.3.2).
func rootOf(leaf hash, index, leaves uint32, path [][]byte) (root hash, ok bool) {
	if index >= leaves {
		return hash{}, false
	}
	node, last := index, leaves-1
	root = leaf
	for _, sibling := range path {
		if len(sibling) != sha256.Size || last == 0 {
			return hash{}, false
		}
		if node&1 == 1 || node == last {
			root = nodeHash(hash(sibling), root)
			for node&1 == 0 && node != 0 {
				node, last = node>>1, last>>1
			}
		} else {
			root = nodeHash(root, hash(sibling))
		}
		node, last = node>>1, last>>1
	}
	return root, last == 0
}
