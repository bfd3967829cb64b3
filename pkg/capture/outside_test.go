package capture

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

func gatewayOn(address string) Listener {
	return Listener{As: orders, To: orders, Port: 80, Address: netip.MustParseAddrPort(address), Gateway: true}
}

// TestASourceOutsideHasOnlySoMany: those beyond are reset, and one that ends makes room.
func TestASourceOutsideHasOnlySoMany(t *testing.T) {
	t.Parallel()
	ls := testListeners(t, Config{MaxOfSource: 2})
	address := ls.start(t, gatewayOn("127.0.0.1:0"))[0]
	var open []net.Conn
	dial := func() (net.Conn, error) {
		conn, err := net.Dial("tcp", address)
		if err != nil { // a reset can be faster than the end of connecting
			return nil, err
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, err = io.ReadAll(conn) // the handler says something, and waits
		return conn, err
	}
	for range 2 {
		conn, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	if _, err := dial(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the third: %v", err)
	}
	if s := ls.Status()[0]; s.Refused != 1 || s.Accepted != 2 {
		t.Errorf("%+v", s)
	}
	open[0].Close()
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := dial(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a connection that ended makes no room")
		}
	}
}

func TestWhatIsOneSource(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true}, {"192.0.2.1", "192.0.2.2", false}, {"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::2:1", true}, {"2001:db8::1", "2001:db8:0:1::1", false}, {"fe80::1%eth0", "fe80::1%eth1", true},
	} {
		if got := sourceOf(netip.MustParseAddr(tt.a)) == sourceOf(netip.MustParseAddr(tt.b)); got != tt.same {
			t.Errorf("%s and %s: %v", tt.a, tt.b, got)
		}
	}
}

// TestAGatewaysPortThatGoesDrains: its connections hear of it, those of other listeners do not, and whoever asked for
// changes hears of each.
func TestAGatewaysPortThatGoesDrains(t *testing.T) {
	t.Parallel()
	ended := make(chan bool, 2)
	changes := make(chan struct{}, 8)
	ls := testListeners(t, Config{
		Handle: func(ctx context.Context, conn *net.TCPConn, l Listener) {
			io.WriteString(conn, "x")
			<-ctx.Done()
			ended <- l.Gateway
		},
		Changed: func() { changes <- struct{}{} },
	})
	wanted := []Listener{gatewayOn("127.0.0.1:0"), gatewayOn("127.0.0.2:0"), listenerOn("127.0.0.3:0")}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer ls.owners.close()
	defer running.Wait()
	defer stop()
	defer ls.reconcile(ctx, nil, &running)
	if !ls.reconcile(ctx, wanted, &running) || len(changes) != 1 {
		t.Fatal(ls.Status(), len(changes))
	}
	for _, address := range ls.addresses(wanted...) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if ls.reconcile(ctx, wanted[1:], &running); len(changes) != 2 {
		t.Errorf("%d changes", len(changes))
	}
	if !<-ended {
		t.Error("another listener's connection ended")
	}
	if ls.reconcile(ctx, wanted[1:], &running); len(changes) != 2 || len(ended) > 0 {
		t.Errorf("nothing changed: %d changes, %d ended", len(changes), len(ended))
	}
	// The same address for local callers: who came from outside goes.
	wanted[1].Gateway = false
	if ls.reconcile(ctx, wanted[1:], &running); !<-ended || len(ended) > 0 {
		t.Error("another connection ended")
	}
}
