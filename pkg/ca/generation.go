package ca

import (
	"bytes"
	"time"
)

// A verdict says what a renewal is.
type verdict int

const (
	// advances: the holder of the registered key asks for its successor.
	advances verdict = iota
	// repeats: the successor was registered before and the answer did not arrive or was not stored, or the
	// node asks for more certificates without a new key. The generation stays.
	repeats
	// splits: two successors of one generation, or two keys of one generation. A host was copied.
	splits
	// isOld: a generation that was left behind, as a restored disk image shows it.
	isOld
	// isFrozen, isRemoved and isAbsent: nothing until an operator decides.
	isFrozen
	isRemoved
	isAbsent
)

// judge decides on a renewal by what the registry has, what the node's receipt says (its signature was
// verified) and the key that the node asks for. Where it returns believed, the receipt is newer than the
// registry, which was therefore restored: the caller takes the receipt's key, generation and services first.
//
// The order of evaluation: removed, absent, receipt newer than the registry, frozen, the registered key asks
// again, the registered key's holder goes on, below the floor that the last accept set, two successors,
// older.
func judge(record *NodeRecord, receipt *Receipt, newKey []byte, now time.Time, absence time.Duration) (v verdict, believed bool) {
	if record.GetState() == NodeState_NODE_STATE_REMOVED {
		return isRemoved, false
	}
	heard := receipt.GetIssuedUnixMs()
	if bytes.Equal(record.GetPublicKey(), receipt.GetPublicKey()) || bytes.Equal(record.GetPublicKey(), newKey) {
		heard = max(heard, record.GetRenewedUnixMs()) // the answer may not have arrived
	}
	if now.Sub(time.UnixMilli(heard)) > absence {
		return isAbsent, false
	}
	generation, key := record.GetGeneration(), record.GetPublicKey()
	believed = receipt.GetGeneration() > generation
	if believed {
		generation, key = receipt.GetGeneration(), receipt.GetPublicKey()
	}
	switch {
	case record.GetState() == NodeState_NODE_STATE_FROZEN:
		return isFrozen, false
	case bytes.Equal(key, newKey):
		return repeats, believed
	case bytes.Equal(key, receipt.GetPublicKey()):
		return advances, believed
	case receipt.GetGeneration() < record.GetFloor():
		return isOld, false
	case receipt.GetGeneration()+1 >= generation:
		return splits, false
	}
	return isOld, false
}
