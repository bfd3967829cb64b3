package routing

// PickHedge chooses an instance for a second attempt beside the one at the decision's instance: of the same backend, and
// none that was tried. It reports false where there is none that a circuit breaker lets be asked. Until out's Done both count.
// It reads d, which must not change meanwhile.
func (d *Decision) PickHedge(call *Call, out *Decision) bool {
	out.reset()
	if d.backend == nil || d.Instance == nil || d.tried >= maxTries-1 {
		return false
	}
	out.Rule, out.Service, out.Port, out.backend = d.Rule, d.Service, d.Port, d.backend
	out.tries, out.tried = d.tries, d.tried
	out.tries[out.tried] = d.Instance.load
	out.tried++
	out.hash, out.hashed = d.hash, d.hashed
	out.take(call)
	return out.Instance != nil
}

// Adopt gives the exchange to the instance of another decision for it, as of PickHedge, which is of no use after that. The
// instance of before counts as tried.
func (d *Decision) Adopt(other *Decision) {
	d.Leave()
	d.tries, d.tried = other.tries, other.tried
	d.Instance, d.Target, d.Carrier = other.Instance, other.Target, other.Carrier
	d.counted, other.counted = other.counted, nil
	d.taken, d.timed = other.taken, other.timed
	other.Done()
}
