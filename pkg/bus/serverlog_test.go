package bus

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What clients are refused is logged in few lines, and who is refused too much is found: by the number that the
// server gave the connection, whatever the client calls itself.
func TestRefusalsAreCountedAndNotAllLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newServerLog(slog.New(slog.NewTextHandler(&out, nil)))
		var floods []uint64
		l.refused = func(connection uint64) { floods = append(floods, connection) }
		line := func(cid int) string {
			return fmt.Sprintf(`127.0.0.1:5 - cid:%d - "v1:go:x - cid:99 - Publish Violation " - "A/nodes/jwt:U" - Publish Violation - Subject %%q`, cid)
		}
		for range 5 * refusalsFlood {
			l.Errorf(line(24), "sennit.node.web2.register")
		}
		for range refusalsFlood - 1 {
			l.Errorf(line(25), "sennit.node.web2.register")
		}
		if !slices.Equal(floods, []uint64{24}) {
			t.Errorf("floods of %v, want of 24 once", floods)
		}
		if n := strings.Count(out.String(), "\n"); n != refusalsLogged {
			t.Errorf("%d lines, want %d", n, refusalsLogged)
		}
		time.Sleep(time.Second)
		out.Reset()
		l.Errorf(line(25), "x")
		if want := fmt.Sprintf("times=%d", 6*refusalsFlood-1-refusalsLogged); !strings.Contains(out.String(), want) || strings.Count(out.String(), "\n") != 2 {
			t.Errorf("in the next second: %s; want %s and the line itself", &out, want)
		}
		out.Reset()
		l.Errorf("something else went wrong")
		if strings.Count(out.String(), "\n") != 1 {
			t.Errorf("an error of another kind: %q", &out)
		}
	})
}
