package bus

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
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

// TestWhatALineSaysWasRefused reads lines as the server writes them, the parts that a client chooses included.
func TestWhatALineSaysWasRefused(t *testing.T) {
	t.Parallel()
	const who = `127.0.0.1:5 - cid:24 - "v1:go" - "A/nodes/jwt:U"`
	for _, tt := range []struct {
		name   string
		format string
		v      []any
		kind   string // empty: nothing
		detail string
	}{
		{"publishing", who + " - Publish Violation - Subject %q", []any{[]byte("sennit.config.x")}, RefusedPublish, `Subject "sennit.config.x"`},
		{"a reply subject", who + " - Publish Violation - Reply %q", []any{[]byte("_R_.x")}, RefusedPublish, `Reply "_R_.x"`},
		{"subscribing", who + ` - Subscription Violation - Subject "sennit.>", SID 1`, nil, RefusedSubscribe, `Subject "sennit.>", SID 1`},
		{"a long subject, and what a terminal would obey", who + " - Publish Violation - Subject %q", []any{strings.Repeat("\x1b", 1000)}, RefusedPublish, ""},
		{"a payload", who + " - %s: %d vs %d", []any{errors.New("maximum payload"), 300000, 262144}, RefusedPayload, "300000 262144"},
		{"a user that is not let in", "127.0.0.1:5 - cid:24 - %v - %s", []any{server.ErrAuthentication, `JWT User "U"`}, RefusedConnect, ""},
		{"nobody's", "127.0.0.1:5 - cid:24 - " + server.ErrAuthentication.Error(), nil, RefusedConnect, ""},
		{"something else", who + " - Slow Consumer Detected", nil, "", ""},
	} {
		connection, kind, detail, ok := refusalIn(tt.format, tt.v)
		if ok != (tt.kind != "") || kind != tt.kind || ok && connection != 24 || tt.detail != "" && detail != tt.detail || len(detail) > 2*maxRefusalDetail || strings.ContainsRune(detail, 0x1b) {
			t.Errorf("%s: connection %d, %q %q, %v", tt.name, connection, kind, detail, ok)
		}
	}
	var all tallies
	for connection := range uint64(2 * maxTallied) {
		all.add(connection, RefusedPublish, "x")
	}
	if told, beyond := all.take(); len(told) != maxTallied || beyond[RefusedPublish] != maxTallied {
		t.Errorf("%d are kept apart, and %v beyond", len(told), beyond)
	}
}
