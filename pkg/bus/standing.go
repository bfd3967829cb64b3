package bus

import "github.com/sennit-mesh/sennit/pkg/snapshot"

// A Standing is how far one node has come.
type Standing struct {
	Follows int              // subjects
	Behind  int              // of them, that it has not applied as they are stored
	Applied snapshot.Version // the newest that it has applied
}

// Standings tells of every node that follows something, by name.
func (a *Applied) Standings() map[string]Standing {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make(map[string]Standing, len(a.nodes))
	for node, followed := range a.nodes {
		if a.removed(node) {
			continue
		}
		s := Standing{Follows: len(followed)}
		for subject, entry := range followed {
			if s.Applied.Compare(entry.version) < 0 {
				s.Applied = entry.version
			}
			if want, ok := a.stored[subject]; ok && entry.version.Compare(want) < 0 && a.may(node, subject) {
				s.Behind++
			}
		}
		all[node] = s
	}
	return all
}

// Newest is the newest version that the leader published, or zero on a controller that does not lead.
func (a *Applied) Newest() snapshot.Version {
	a.mu.Lock()
	defer a.mu.Unlock()
	var newest snapshot.Version
	for _, v := range a.stored {
		if newest.Compare(v) < 0 {
			newest = v
		}
	}
	return newest
}
