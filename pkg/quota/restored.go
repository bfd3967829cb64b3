package quota

import "time"

// A backup is older than what was granted since, and nothing that is left knows how much that is: nodes that died had
// spent as well. So a ledger that was restored counts as granted all that could be, until its first owner began.

// Restored is what a restore stores, in place of every reservation that there was.
func Restored() *Reservation { return &Reservation{} }

func (r *Reservation) ofRestore() bool { return r.GetLimit() == "" }

// Begin says what an owner stores before it grants anything, by what was stored before its term began: for the first
// one since a restore, that it is. Until then the controller that was lost could have granted.
func Begin(stored []*Reservation, began time.Time) (first []*Reservation) {
	for _, r := range stored {
		if r.ofRestore() && r.GetRestored() == 0 {
			r.Restored = began.UnixNano()
			first = append(first, r)
		}
	}
	return first
}

// restore takes in that everything was granted until a time, by another clock.
func (l *Ledger) restore(until int64) { l.restored = max(l.restored, until+int64(ClockBound)) }
