package federation

import (
	"net/http"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
)

// refreshHint is after how long others shall ask again. New keys are told an hour before they are used.
const refreshHint = 5 * time.Minute

// An Endpoint serves the bundle of the mesh's own trust domain, at every path: whoever reaches it may read it. It is an
// http.Handler.
type Endpoint struct {
	bundle func() (*spiffebundle.Bundle, error)
	now    func() time.Time

	mu       sync.Mutex
	served   *spiffebundle.Bundle // without its sequence number
	sequence uint64
}

// NewEndpoint serves what bundle returns, as it is at each request; now is time.Now.
func NewEndpoint(bundle func() (*spiffebundle.Bundle, error), now func() time.Time) *Endpoint {
	return &Endpoint{bundle: bundle, now: now}
}

// ServeHTTP answers with the bundle.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "a bundle can be read, and nothing else", http.StatusMethodNotAllowed)
		return
	}
	data, err := e.encode()
	if err != nil {
		http.Error(w, "there is no bundle at this moment", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // whoever has gone needs no bundle
}

// encode writes the bundle with a sequence number that grows with each change: the time of the change, so that it grows
// over restarts too.
func (e *Endpoint) encode() ([]byte, error) {
	bundle, err := e.bundle()
	if err != nil {
		return nil, err
	}
	bundle = bundle.Clone()
	bundle.SetRefreshHint(refreshHint)
	bundle.ClearSequenceNumber()
	e.mu.Lock()
	if e.served == nil || !bundle.Equal(e.served) {
		e.served, e.sequence = bundle.Clone(), max(uint64(e.now().UnixMilli()), e.sequence+1)
	}
	bundle.SetSequenceNumber(e.sequence)
	e.mu.Unlock()
	return bundle.Marshal()
}
