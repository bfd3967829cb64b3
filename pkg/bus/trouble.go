package bus

import "time"

// troubleEvery is how often the log tells that something still fails.
const troubleEvery = time.Minute

// A trouble is that something fails which is tried again and again, such as every request while the bus is away. The log
// tells of it when it begins, rarely while it lasts, and once it is over. The zero value is no trouble.
type trouble struct {
	told time.Time // when the log told of it; zero: all is well
}

// fails takes a failure, and reports whether the log is to tell of it.
func (t *trouble) fails(now time.Time) (tell bool) {
	if !t.told.IsZero() && now.Sub(t.told) < troubleEvery {
		return false
	}
	t.told = now
	return true
}

// over takes a success, and reports whether the log is to tell that all is well again.
func (t *trouble) over() (tell bool) {
	tell = !t.told.IsZero()
	t.told = time.Time{}
	return tell
}
