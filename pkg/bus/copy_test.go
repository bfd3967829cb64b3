package bus_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// A stream that is copied and restored elsewhere has every record, with its sequence and its time: the audit refers to
// both.
func TestACopyIsTheStream(t *testing.T) {
	t.Parallel()
	from := bustest.Start(t)
	records := from.Controller.Records(bus.StreamAudit)
	const many = 40
	for i := range many {
		if _, err := records.Append(t.Context(), fmt.Sprintf("sennit.audit.%d.log", i), bytes.Repeat([]byte{byte(i)}, 40<<10), 0); err != nil {
			t.Fatal(err)
		}
	}
	var parts [][]byte
	copied, err := records.Copy(t.Context(), func(part []byte) error {
		parts = append(parts, bytes.Clone(part))
		return nil
	})
	if err != nil || copied != (bus.Copied{Messages: many, Last: many}) || len(parts) == 0 {
		t.Fatalf("copied %+v in %d parts: %v", copied, len(parts), err)
	}
	all := func(put func([]byte) error) error {
		for _, part := range parts {
			if err := put(part); err != nil {
				return err
			}
		}
		return nil
	}

	to := withoutStreams(t)
	restored := to.Records(bus.StreamAudit)
	if err := restored.Restore(t.Context(), copied, all); err != nil {
		t.Fatal(err)
	}
	want, got := follow(t, records, 1, many), follow(t, restored, 1, many)
	if !slices.EqualFunc(want, got, func(a, b bus.Entry) bool {
		return a.Subject == b.Subject && a.Sequence == b.Sequence && a.Time.Equal(b.Time) && bytes.Equal(a.Data, b.Data)
	}) {
		t.Errorf("%d records were restored as %d others", len(want), len(got))
	}
	if err := restored.Restore(t.Context(), copied, all); err == nil {
		t.Error("a stream was restored over one that is there")
	}
	if err := to.EnsureStreams(t.Context(), 1); err != nil {
		t.Errorf("streams beside one that was restored: %v", err)
	}
}

// withoutStreams starts a server on an empty folder.
func withoutStreams(t *testing.T) *bus.Conn {
	t.Helper()
	accounts, err := bus.NewAccounts()
	if err != nil {
		t.Fatal(err)
	}
	tls, _ := bustest.TLS(t)
	server, err := bus.NewServer(bus.ServerConfig{
		Name: "other", Listen: netip.MustParseAddrPort("127.0.0.1:0"), StateDir: t.TempDir(), TLS: tls, Accounts: accounts, Log: bustest.Log(t), MaxStore: 1 << 30,
	})
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, server.Run)
	conn, err := server.Controller(t.Context(), bustest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}
