package controller

import (
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/jwks"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// keySetsSecret is where the authority keeps the keys of issuers that were fetched. They are public, and kept there because
// whoever could change them there could be anybody.
const keySetsSecret = "key-sets"

// keySetStore is a jwks.Store.
type keySetStore struct{ authority *ca.Authority }

func (s keySetStore) Load() ([]byte, error)  { return s.authority.Secret(keySetsSecret) }
func (s keySetStore) Save(data []byte) error { return s.authority.PutSecret(keySetsSecret, data) }

// keySets are what was fetched, as the compiler takes it.
func (c *Controller) keySets() map[compile.KeySource]compile.KeySet {
	all := map[compile.KeySource]compile.KeySet{}
	for source, set := range c.issuers.Sets() {
		all[compile.KeySource(source)] = compile.KeySet(set)
	}
	return all
}

// wantKeySets has what documents name fetched.
func (c *Controller) wantKeySets(named []compile.KeySource) {
	wanted := make([]jwks.Source, len(named))
	for i, one := range named {
		wanted[i] = jwks.Source(one)
	}
	c.issuers.Want(wanted)
}

// maxStaleKeys bounds the URLs that one message of a node's is listened to for.
const maxStaleKeys = 16

// refreshKeySets has those fetched soon of which a node says that keys are missing. A node may say so of any, and as often
// as it likes: how often they are fetched is bounded for all nodes together.
func (c *Controller) refreshKeySets(alive *snapshot.Alive) {
	urls := alive.GetStaleKeys()
	for _, url := range urls[:min(len(urls), maxStaleKeys)] {
		c.issuers.Refresh(url)
	}
}
