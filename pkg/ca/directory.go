package ca

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
)

// A Directory is what the registry says of nodes and join tokens, for lists: it is given the records in their
// order, older ones of a subject too where the store keeps them. It is not safe for concurrent use.
type Directory struct {
	nodes  map[string]Node
	tokens map[string]TokenStatus // by id; without those that were revoked

	revocations []*RevocationRecord
}

// NewDirectory returns one that knows of nothing.
func NewDirectory() *Directory {
	return &Directory{nodes: map[string]Node{}, tokens: map[string]TokenStatus{}}
}

// Take takes in a record, and reports whether it was a node's, or what is revoked. It changes nothing where the record cannot be read.
func (d *Directory) Take(entry bus.Entry) (node bool, err error) {
	switch {
	case strings.HasPrefix(entry.Subject, nodePrefix):
		record := &NodeRecord{}
		if err = proto.Unmarshal(entry.Data, record); err == nil {
			d.nodes[record.GetNode()], node = record.node(), true
		}
	case entry.Subject == revokedSubject:
		list := &RevocationList{}
		if err = proto.Unmarshal(entry.Data, list); err == nil {
			d.revocations, node = list.GetRevocations(), true
		}
	case strings.HasPrefix(entry.Subject, tokenPrefixes):
		record := &TokenRecord{}
		if err = proto.Unmarshal(entry.Data, record); err == nil {
			d.token(entry.Subject[len(tokenPrefixes):], record)
		}
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", entry.Subject, err)
	}
	return node, nil
}

func (d *Directory) token(id string, record *TokenRecord) {
	if record.GetRevoked() {
		delete(d.tokens, id)
		return
	}
	status := TokenStatus{ID: id, Node: record.GetNode(), Expires: time.UnixMilli(record.GetExpiresUnixMs()), Attest: record.attest()}
	status.Services, _ = parseServices(record.GetServices()) // they were checked when they were stored
	if record.GetUsedBy() != nil {
		status.Used = time.UnixMilli(record.GetUsedUnixMs())
	}
	d.tokens[id] = status
}

// Revocations lists those that are in force, those that end first at first.
func (d *Directory) Revocations(now time.Time) []Revocation { return inForce(d.revocations, now) }

// Nodes lists the nodes by name, removed ones included.
func (d *Directory) Nodes() []Node {
	return slices.SortedFunc(maps.Values(d.nodes), func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
}

// Tokens lists the join tokens, those that end first at first, used and expired ones included.
func (d *Directory) Tokens() []TokenStatus {
	return slices.SortedFunc(maps.Values(d.tokens), func(a, b TokenStatus) int {
		return cmp.Or(a.Expires.Compare(b.Expires), strings.Compare(a.ID, b.ID))
	})
}
