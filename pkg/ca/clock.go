package ca

import "time"

// disagreeing is how many beats in a row must say that the clocks disagree before it is logged: the first ones after a
// host was paused were sent before.
const disagreeing = 3

// CompareClock takes in what a controller's clock said a moment ago. That they disagree by more than certificates and
// registrations bear is in Status, and logged once each time it begins and ends.
func (i *Identity) CompareClock(controller time.Time) {
	now := i.wall()
	skew := now.Sub(controller)
	i.mu.Lock()
	before := i.disagreed
	i.skew, i.disagreed = skew, 0
	if skew.Abs() > maxSkew {
		i.disagreed = min(before+1, disagreeing)
	}
	after := i.disagreed
	i.mu.Unlock()
	switch {
	case after == disagreeing && before < disagreeing:
		i.cfg.Log.Warn("this host's clock and the controller's disagree", "node", i.Node(), "err", refuse(ErrClock, "%s", clockAdvice(skew, controller)))
	case before == disagreeing && after == 0:
		i.cfg.Log.Info("this host's clock and the controller's agree again", "node", i.Node())
	}
}
