package http2

import "time"

// A patience is what a connection has left for frames that bring no exchange forward: PING, SETTINGS, PRIORITY, empty
// DATA, RST_STREAM of what has not ended, frames of closed or unknown kind, a WINDOW_UPDATE beyond those that data
// which was sent explains, and everything that makes this side reset a stream. Each costs one. A peer that does its
// work earns more than it uses: by data in either direction, by exchanges that complete, and a little by time. One that
// has used it up is disconnected with ENHANCE_YOUR_CALM.
//
// One account for all of it bounds the floods that are known (CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2025-8671)
// and mixtures of them. It is for the goroutine that reads, and earn for whoever holds the connection's lock.
type patience struct {
	left, most int
	since      time.Time // when time was last counted
}

const (
	patiencePerSecond   = 50
	patienceOfData      = 1 // of a frame with worthData bytes, or the last of its body
	patienceOfExchanges = 4
	worthData           = 256 // a window of a byte at a time explains nothing
)

// spend takes one; false: there is none.
func (p *patience) spend(now func() time.Time) bool {
	if p.left == 0 {
		t := now()
		if earned := int(t.Sub(p.since).Seconds() * patiencePerSecond); earned > 0 {
			p.since = t
			p.earn(earned)
		}
	}
	if p.left == 0 {
		return false
	}
	p.left--
	return true
}

func (p *patience) earn(n int) { p.left = min(p.left+n, p.most) }
