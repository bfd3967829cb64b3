package quota

// A window counts what was granted between two full seconds, minutes, hours or days of Unix time.
type window struct {
	start   int64
	granted int64
	ceiling int64 // granted never exceeds it; on disk where the limit is reserved
	per     int64
	from    int64 // nothing is free in a window that began before: a predecessor may grant from it, or has
}

func (w *window) settle(limit Limit, now int64) {
	w.per = int64(limit.Per)
	if start := now - now%w.per; start > w.start {
		w.start, w.granted, w.ceiling = start, 0, 0
	}
	if limit.unreserved() {
		w.ceiling = limit.Requests
	}
}

func (w *window) free(limit Limit, _ int64) int64 {
	if w.start < w.from {
		return 0
	}
	return limit.Requests - w.granted
}

func (w *window) raise(limit Limit, n, _ int64) int64 {
	step := max(1, limit.Requests/reserveShare)
	need := (w.granted + n + step - 1) / step * step
	return min(need, limit.Requests)
}

func (w *window) grant(_ Limit, n, _ int64) int64 {
	n = max(min(n, w.ceiling-w.granted), 0)
	w.granted += n
	return n
}

// release takes back what is unused. A lease ends with its window at the latest, so that it is this one's.
func (w *window) release(_ Limit, _, unused, _ int64) { w.granted -= unused }

func (w *window) horizon(_ Limit, now int64) (ends, reset int64) {
	end := w.start + w.per
	return min(end, now+int64(windowLease)), end
}

func (w *window) idle(int64) bool { return w.granted == 0 }

func (w *window) reserved() (start, ceiling int64) { return w.start, w.ceiling }

func (w *window) reserve(start, ceiling int64) {
	if start == w.start {
		w.ceiling = max(w.ceiling, ceiling)
	}
}
