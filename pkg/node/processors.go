package node

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"time"
)

// processors keeps as many of Go's processors as the load needs (docs/decisions/0027). With one to spare, whatever
// becomes runnable wakes a thread that looks for more, finds nothing and sleeps again: under light load that is half
// of what a request costs.
type processors struct {
	most  int // what Go takes by itself
	quiet int // looks in a row at which fewer would have done
}

const (
	lookEvery = 100 * time.Millisecond
	// busyAbove is the share of the processors in use above which there are to be twice as many, at once.
	busyAbove = 0.75
	// quietBelow is the share below which half as many are to do, once that has been so for quietLooks. Half of them
	// are then used by less than busyAbove, so that the number does not swing.
	quietBelow = 0.3
	quietLooks = 10
)

// next decides how many there are to be, where of have ones so many were in use (1.5: one and a half) since the last look.
func (p *processors) next(have int, used float64) int {
	switch {
	case used > busyAbove*float64(have):
		p.quiet = 0
		return min(2*have, p.most)
	case have > 1 && used < quietBelow*float64(have):
		if p.quiet++; p.quiet >= quietLooks {
			p.quiet = 0
			return (have + 1) / 2
		}
	default:
		p.quiet = 0
	}
	return have
}

// fitProcessors runs until ctx ends. Whoever sets GOMAXPROCS has decided otherwise.
func (n *Node) fitProcessors(ctx context.Context) error {
	if os.Getenv("GOMAXPROCS") != "" {
		<-ctx.Done()
		return nil
	}
	defer runtime.SetDefaultGOMAXPROCS()
	p := processors{most: runtime.GOMAXPROCS(0)}
	have, at, spent := p.most, time.Now(), processTime()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			total := processTime()
			used := float64(total-spent) / float64(now.Sub(at))
			at, spent = now, total
			next := p.next(have, used)
			switch {
			case next == have:
			case next == p.most:
				runtime.SetDefaultGOMAXPROCS() // follows a container's limit, which may have changed
				p.most = runtime.GOMAXPROCS(0)
				next = p.most
			default:
				runtime.GOMAXPROCS(next)
			}
			have = next
		}
	}
}

// processTime is the CPU time that this process has used.
func processTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil { // fails for a wrong address only
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
