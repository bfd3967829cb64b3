package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"
)

const (
	// changeTime is how long a change may take to reach every node.
	changeTime = 30 * time.Second
	// pauseFirst and pauseMost space the changes: nodes have reported by then what they applied, and changes
	// fall anywhere between two beats.
	pauseFirst = 400 * time.Millisecond
	pauseMost  = 800 * time.Millisecond
)

// idle watches the mesh while nothing changes.
func (f *fleet) idle(ctx context.Context, length time.Duration) (spent Spent, err error) {
	runtime.GC() // what joining left is not of the idle nodes
	if err := pause(ctx, length/5); err != nil {
		return spent, err
	}
	before, err := f.usage()
	if err != nil {
		return spent, err
	}
	if err := pause(ctx, length); err != nil {
		return spent, err
	}
	after, err := f.usage()
	spent.spent(before, after)
	return spent, err
}

// change makes changes and measures how they reach the nodes: by turns one that every node verifies, and one
// where they share what one of them verified, so that what else the machine does hits both passes alike.
func (f *fleet) change(ctx context.Context, changes int) (verified, shared Pass, err error) {
	defer f.verifier.share(false)
	cost := verifyCost()
	verified.VerifyCost, shared.VerifyCost = micros(cost), micros(cost)
	for i := range 2*changes + 2 {
		pass := &verified
		f.verifier.share(i%2 == 1)
		if i%2 == 1 {
			pass = &shared
		}
		if err := f.once(ctx, pass, i >= 2); err != nil { // the first of each is for warming up
			return verified, shared, err
		}
	}
	verified.summarize()
	shared.summarize()
	return verified, shared, nil
}

// once makes one change, and counts it where it is to be counted.
func (f *fleet) once(ctx context.Context, pass *Pass, counts bool) error {
	if err := pause(ctx, pauseFirst+rand.N(pauseMost-pauseFirst)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, changeTime, errors.New("the change took too long"))
	defer cancel()
	before, err := f.usage()
	if err != nil {
		return err
	}
	checks := f.verifier.verified.Load()
	sent := time.Now()
	version, err := f.next(ctx)
	if err != nil {
		return err
	}
	acknowledged := time.Now()
	times, err := f.await(ctx, version)
	if err != nil || !counts {
		return err
	}
	checks = f.verifier.verified.Load() - checks
	during, err := f.usage()
	if err != nil {
		return err
	}
	// Nodes report what they applied 50 to 100 ms later, and the controller writes the status: that is part of
	// what a change costs, and not of how long it takes.
	if err := pause(ctx, pauseFirst/2); err != nil {
		return err
	}
	after, err := f.usage()
	if err != nil {
		return err
	}
	pass.Changes++
	pass.Verifications += checks
	pass.during.spent(before, during)
	pass.whole.spent(before, after)
	pass.acknowledged = append(pass.acknowledged, acknowledged.Sub(sent))
	last := slices.MaxFunc(times, time.Time.Compare)
	pass.last = append(pass.last, last.Sub(acknowledged))
	one := make([]time.Duration, 0, len(times))
	for _, at := range times {
		one = append(one, at.Sub(sent))
		pass.fromAcknowledged = append(pass.fromAcknowledged, at.Sub(acknowledged))
		pass.fromSent = append(pass.fromSent, at.Sub(sent))
	}
	pass.each = append(pass.each, time.Duration(1000*quantiles(one).P99))
	return nil
}

// pause waits, or returns why not.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
