package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

// serverLog hands what the embedded server says to our log. Its notices are our debug messages: a
// controller's log is about the mesh. What the server calls fatal would end the process; here it ends Run.
type serverLog struct {
	log   *slog.Logger
	fatal chan error // the first; later ones are only logged
	fault *storeFault

	refused  func(connection uint64) // is told of a connection on which too much is refused; must not block
	refusals refusals
	tallies  tallies
}

func newServerLog(log *slog.Logger) *serverLog {
	return &serverLog{log: log, fatal: make(chan error, 1), refused: func(uint64) {}}
}

func (l *serverLog) say(level slog.Level, format string, v []any) {
	if ctx := context.Background(); l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, "bus server", "said", fmt.Sprintf(format, v...))
	}
}

func (l *serverLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.say(slog.LevelDebug-4, format, v) }
func (l *serverLog) Tracef(format string, v ...any)  { l.say(slog.LevelDebug-4, format, v) }

// Warnf passes warnings on but one, which the server gives at each start: that clients must begin with TLS is
// what we want, and ours do.
func (l *serverLog) Warnf(format string, v ...any) {
	level := slog.LevelWarn
	if strings.Contains(format, "TLS Handshake First") {
		level = slog.LevelDebug
	}
	l.say(level, format, v)
}

// Errorf also finds the store's failures, and what clients were refused, which the server gives in no other way.
func (l *serverLog) Errorf(format string, v ...any) {
	if connection, kind, detail, ok := refusalIn(format, v); ok {
		l.tallies.add(connection, kind, detail)
		log, left, flood := l.refusals.take(connection, time.Now())
		if left > 0 {
			l.log.Warn("more was refused to users of the bus than is logged", "times", left)
		}
		if flood {
			l.refused(connection)
		}
		if !log {
			return
		}
	}
	l.say(slog.LevelError, format, v)
	if strings.HasPrefix(format, "Filestore") && strings.Contains(format, "Critical write error") && l.fault != nil {
		l.fault.set(fmt.Sprintf(format, v...))
	}
}

func (l *serverLog) Fatalf(format string, v ...any) {
	l.say(slog.LevelError, format, v)
	select {
	case l.fatal <- remedy(fmt.Sprintf(format, v...)):
	default:
	}
}

// remedy makes an error of what the server said, with what can be done about it. The server gives text
// and no error to unwrap.
func remedy(said string) error {
	for _, r := range []struct{ part, remedy string }{
		{"address already in use", "another process has the port: stop it, or choose another port"},
		{"permission denied", "the user that runs this may not: ports below 1024 and the state directory need its rights"},
		{"no space left", "the disk is full: free some space"},
		{"read-only file system", "the state directory must be writable"},
	} {
		if strings.Contains(said, r.part) {
			return fmt.Errorf("%s (%s)", said, r.remedy)
		}
	}
	return errors.New(said)
}

const (
	// refusalsLogged is how many refusals are logged in a second: who sends what it may not sends as fast as it
	// can, and the server says a line to each.
	refusalsLogged = 10
	// refusalsFlood is how many of them on one connection, in a second, cut its node off.
	refusalsFlood = 1000
)

// refusals counts what the server refused in the present second. It is safe for concurrent use.
type refusals struct {
	mu     sync.Mutex
	second time.Time
	all    int
	by     map[uint64]int // connection
}

// take counts one. left is how many of the second before were not logged, told once.
func (r *refusals) take(connection uint64, now time.Time) (log bool, left int, flood bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.second) >= time.Second {
		left = max(r.all-refusalsLogged, 0)
		r.second, r.all, r.by = now, 0, map[uint64]int{}
	}
	r.all++
	r.by[connection]++
	return r.all <= refusalsLogged, left, r.by[connection] == refusalsFlood
}

// connectionOf reads which connection a line is of: "127.0.0.1:54072 - cid:24 - …". What comes behind the number is the
// client's to choose in part.
func connectionOf(format string) (connection uint64, ok bool) {
	_, rest, _ := strings.Cut(format, " - cid:")
	number, _, _ := strings.Cut(rest, " ")
	connection, err := strconv.ParseUint(number, 10, 64)
	return connection, err == nil
}
