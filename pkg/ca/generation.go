package ca

import (
	"bytes"
	"slices"
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
	believed = newer(receipt, record)
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

// newer reports whether a receipt says more of a node than the registry does, which can only be where the registry was
// restored: by the generation, and within one by the epoch, then the number. The key must be the same there: two hosts
// that renewed one generation have receipts of two lines. The epoch counts for more than the number, since answers that a
// node never got have numbers too, and a backup may hold them.
//
// A receipt of an older epoch than the one in which the node has shown itself is of a controller that was given up, and
// says nothing more: what was taken from the node since would come back with it.
func newer(receipt *Receipt, record *NodeRecord) bool {
	switch {
	case receipt.GetEpoch() < record.GetEpoch():
		return false
	case receipt.GetGeneration() != record.GetGeneration():
		return receipt.GetGeneration() > record.GetGeneration()
	case !bytes.Equal(receipt.GetPublicKey(), record.GetPublicKey()):
		return false
	}
	return receipt.GetEpoch() > record.GetEpoch() || receipt.GetNumber() > record.GetReceiptNumber()
}

// believe takes from a receipt what the registry has lost. What an operator allowed since the registry was restored he
// did not take back by restoring it.
func (r *NodeRecord) believe(receipt *Receipt) {
	allowed := r.GetAllowed()
	r.PublicKey, r.Generation = receipt.GetPublicKey(), receipt.GetGeneration()
	r.Services, r.ReceiptNumber = receipt.GetServices(), receipt.GetNumber()
	for _, service := range allowed[:min(len(allowed), max(maxServices-len(r.GetServices()), 0))] {
		r.allow(service)
	}
}

// allow lets the node run a service. The caller minds maxServices.
func (r *NodeRecord) allow(service string) {
	for _, services := range []*[]string{&r.Services, &r.Allowed} {
		if !slices.Contains(*services, service) {
			*services = append(*services, service)
		}
	}
	r.Suspended = slices.DeleteFunc(r.GetSuspended(), func(s string) bool { return s == service })
}

// deny takes a service away from the node.
func (r *NodeRecord) deny(service string) {
	for _, services := range []*[]string{&r.Services, &r.Allowed, &r.Suspended} {
		*services = slices.DeleteFunc(*services, func(s string) bool { return s == service })
	}
}
