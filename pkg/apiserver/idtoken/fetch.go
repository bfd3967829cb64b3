package idtoken

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	fetchTimeout = 5 * time.Second
	maxFetched   = 1 << 20 // bytes of an answer of the issuer's
	// refetch is how long what the issuer answered is good, failures too. A token of a key that is not known asks for the keys
	// again, and anybody can send one.
	refetch = 10 * time.Second
	maxURLs = 4 // the issuer's description and its keys; where it changes them, what was before is forgotten
)

// A fetcher asks the issuer each thing once in a while. It is safe for concurrent use; who asks for the same waits.
type fetcher struct {
	next http.RoundTripper // nil: the default
	now  func() time.Time

	mu   sync.Mutex
	last map[string]fetched // by URL
}

type fetched struct {
	at     time.Time
	status int
	header http.Header
	body   []byte
	err    error
}

// RoundTrip answers what was answered a short time ago.
func (f *fetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("%s: the identity provider must be reached by https", r.URL.Redacted())
	}
	key := r.URL.String()
	f.mu.Lock()
	defer f.mu.Unlock()
	last, have := f.last[key]
	if !have || f.now().Sub(last.at) >= refetch {
		if len(f.last) >= maxURLs && !have {
			clear(f.last)
		}
		last = f.fetch(r)
		last.at = f.now() // when it was answered: who does not answer must not keep everybody waiting all the time
		f.last[key] = last
	}
	if last.err != nil {
		return nil, last.err
	}
	return &http.Response{
		StatusCode: last.status, Status: http.StatusText(last.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: last.header.Clone(),
		Body: io.NopCloser(bytes.NewReader(last.body)), ContentLength: int64(len(last.body)), Request: r,
	}, nil
}

func (f *fetcher) fetch(r *http.Request) fetched {
	next := f.next
	if next == nil {
		next = http.DefaultTransport
	}
	var got fetched
	res, err := next.RoundTrip(r)
	if err != nil {
		got.err = err
		return got
	}
	defer res.Body.Close()
	got.status, got.header = res.StatusCode, res.Header
	if got.body, got.err = io.ReadAll(io.LimitReader(res.Body, maxFetched+1)); got.err == nil && len(got.body) > maxFetched {
		got.err = errors.New("the identity provider answers with too much")
	}
	return got
}
