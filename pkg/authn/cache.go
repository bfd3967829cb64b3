package authn

import (
	"crypto/sha256"
	"sync/atomic"
	"unsafe"
)

// A cache holds what tokens prove. It is keyed by a hash of the whole token, so that how far two tokens are alike changes
// nothing, and it keeps no token. Its size is bounded by what it is: a token has its place in one of a set's ways, and takes
// that of another where all are taken. Who has many good tokens can have others verified again, and no more than that.
// Readers and writers take no lock.
type cache struct {
	sets [cacheSets]atomic.Pointer[cacheSet]
}

type cacheSet [cacheWays]atomic.Pointer[kept]

type kept struct {
	id [sha256.Size]byte
	*proof
}

const (
	cacheSets = 512
	cacheWays = 4
	// maxKeptBytes is how long a token is at most that is kept: with what is read of it, in memory, some twenty times as
	// much, all of a policy is at most some 160 MB where an issuer makes only the largest, and 4 MB for usual ones.
	maxKeptBytes = 4 << 10
)

// tokenID is the hash of a token.
func tokenID(token string) [sha256.Size]byte {
	return sha256.Sum256(unsafe.Slice(unsafe.StringData(token), len(token))) // which only reads, and need not copy it
}

func (c *cache) get(id *[sha256.Size]byte) *proof {
	set := c.sets[setOf(id)].Load()
	if set == nil {
		return nil
	}
	for i := range set {
		if k := set[i].Load(); k != nil && k.id == *id {
			return k.proof
		}
	}
	return nil
}

// put keeps a proof in the place of the one of its set that ends first, or of none.
func (c *cache) put(id *[sha256.Size]byte, p *proof) {
	at := &c.sets[setOf(id)]
	set := at.Load()
	if set == nil {
		set = new(cacheSet)
		if !at.CompareAndSwap(nil, set) {
			set = at.Load()
		}
	}
	oldest := 0
	for i := range set {
		k := set[i].Load()
		if k == nil || k.id == *id {
			oldest = i
			break
		}
		if first := set[oldest].Load(); k.until.Before(first.until) {
			oldest = i
		}
	}
	set[oldest].Store(&kept{*id, p})
}

func setOf(id *[sha256.Size]byte) int { return (int(id[0])<<8 | int(id[1])) % cacheSets }
