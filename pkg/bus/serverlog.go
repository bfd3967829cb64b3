package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// serverLog hands what the embedded server says to our log. Its notices are our debug messages: a
// controller's log is about the mesh. What the server calls fatal would end the process; here it ends Run.
type serverLog struct {
	log   *slog.Logger
	fatal chan error // the first; later ones are only logged
	fault *storeFault
}

func newServerLog(log *slog.Logger) *serverLog {
	return &serverLog{log: log, fatal: make(chan error, 1)}
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

// Errorf also finds the store's failures, which the server gives in no other way.
func (l *serverLog) Errorf(format string, v ...any) {
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
