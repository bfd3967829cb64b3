package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// upper answers each datagram in upper case.
func upper(_ context.Context, f *Flow) {
	for {
		d, err := f.Receive(nil)
		if err != nil {
			return
		}
		f.Send(bytes.ToUpper(d.Bytes()))
		d.Release()
	}
}

// listenFlows opens a listener of UDP for this user.
func listenFlows(t testing.TB, cfg Config, address string) (*Listeners, *flows) {
	t.Helper()
	if cfg.HandleFlow == nil {
		cfg.HandleFlow = upper
	}
	test, ok := t.(*testing.T)
	if !ok {
		t.Fatal("not a test")
	}
	ls := testListeners(test, cfg)
	rule := listenerOn(address)
	rule.UDP = true
	ls.start(test, rule)
	return ls, ls.open[rule.place()].flows
}

// sendTo returns a socket that is connected to a listener.
func sendTo(t testing.TB, fs *flows) *net.UDPConn {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, fs.Addr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// ask sends a datagram and returns the next that comes.
func askUDP(t testing.TB, conn *net.UDPConn, what string) string {
	t.Helper()
	if _, err := conn.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, largeDatagram)
	n, err := conn.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer[:n])
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestFlowsOfSockets(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			ls, fs := listenFlows(t, Config{}, address)
			a, b := sendTo(t, fs), sendTo(t, fs)
			for _, what := range []string{"a", "", "more"} {
				if got := askUDP(t, a, what); got != string(bytes.ToUpper([]byte(what))) {
					t.Errorf("%q became %q", what, got)
				}
			}
			if got := askUDP(t, b, string(bytes.Repeat([]byte{'b'}, 60000))); len(got) != 60000 || got[0] != 'B' {
				t.Errorf("%d bytes came back", len(got))
			}
			if s := ls.Status()[0]; s.Active != 2 || s.Accepted != 2 || s.Refused != 0 || s.Dropped != 0 {
				t.Errorf("%+v", s)
			}
			a.Close()
			eventually(t, "the flow of a socket that is gone stays", func() bool { return ls.Status()[0].Active == 1 })
			eventually(t, "memory of datagrams is not given back", func() bool { return fs.queued.Load() == 0 })
		})
	}
}

// An unconnected socket on every address is known too.
func TestFlowOfAnUnconnectedSocket(t *testing.T) {
	_, fs := listenFlows(t, Config{}, "127.0.0.1:0")
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.WriteToUDP([]byte("x"), fs.Addr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 10)
	if n, from, err := conn.ReadFromUDPAddrPort(answer); err != nil || string(answer[:n]) != "X" || from != fs.address {
		t.Errorf("%q of %v, %v", answer[:n], from, err)
	}
}

// TestNextSocketOfAPort: a socket that has the port of another one, which is closed, does not speak in its flow.
func TestNextSocketOfAPort(t *testing.T) {
	var mu sync.Mutex
	got := map[*Flow][]string{}
	ls, fs := listenFlows(t, Config{HandleFlow: func(_ context.Context, f *Flow) {
		for {
			d, err := f.Receive(nil)
			if err != nil {
				return
			}
			mu.Lock()
			got[f] = append(got[f], string(d.Bytes()))
			mu.Unlock()
			f.Send(d.Bytes())
			d.Release()
		}
	}}, "127.0.0.1:0")
	first := sendTo(t, fs)
	askUDP(t, first, "first")
	at := first.LocalAddr().(*net.UDPAddr)
	first.Close()
	second, err := net.DialUDP("udp", at, fs.Addr().(*net.UDPAddr))
	if err != nil {
		t.Skip(err) // somebody else has it already
	}
	defer second.Close()
	_ = second.SetDeadline(time.Now().Add(20 * time.Second))
	askUDP(t, second, "second")
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 2 || ls.Status()[0].Accepted != 2 {
		t.Errorf("flows %v", got)
	}
}

// onThreadOf runs fn on a thread of another user's, for what it opens.
func onThreadOf(t *testing.T, uid int, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to open sockets of other users")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and it ends with the goroutine
		if _, err := unix.SetfsuidRetUid(uid); err != nil {
			t.Error(err)
			return
		}
		fn()
	}()
	<-done
}

func TestSendersWhoMayNot(t *testing.T) {
	ls, fs := listenFlows(t, Config{}, "127.0.0.1:0")
	var other *net.UDPConn
	onThreadOf(t, 65534, func() { other = sendTo(t, fs) })
	if _, err := other.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a datagram of another user is not refused", func() bool { return ls.Status()[0].Refused == 1 })
	askUDP(t, sendTo(t, fs), "y")
	if s := ls.Status()[0]; s.Accepted != 1 || s.Refused != 1 || s.Active != 1 {
		t.Errorf("%+v", s)
	}
}

// forge sends a datagram from a socket with the address of another one.
func forge(t *testing.T, conn *net.UDPConn, as netip.Addr, to *net.UDPAddr) {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	header.Level, header.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
	header.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
	(*unix.Inet4Pktinfo)(unsafe.Pointer(&oob[unix.CmsgLen(0)])).Spec_dst = as.As4()
	if _, _, err := conn.WriteMsgUDP([]byte("forged"), oob, to); err != nil {
		t.Fatal(err)
	}
}

// TestForgedSender: whoever has the same port on another address of the host can send in the place of the one that may use
// the listener, so neither is taken.
func TestForgedSender(t *testing.T) {
	var mu sync.Mutex
	var got []string
	ls, fs := listenFlows(t, Config{HandleFlow: func(_ context.Context, f *Flow) {
		for {
			d, err := f.Receive(nil)
			if err != nil {
				return
			}
			mu.Lock()
			got = append(got, string(d.Bytes()))
			mu.Unlock()
			d.Release()
		}
	}}, "127.0.0.1:0")
	victim := sendTo(t, fs)
	port := victim.LocalAddr().(*net.UDPAddr).Port
	var forger *net.UDPConn
	onThreadOf(t, 65534, func() {
		var err error
		if forger, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: port}); err != nil {
			t.Error(err)
		}
	})
	if forger == nil {
		return
	}
	defer forger.Close()
	forge(t, forger, netip.MustParseAddr("127.0.0.1"), fs.Addr().(*net.UDPAddr))
	eventually(t, "a forged datagram is not refused", func() bool { return ls.Status()[0].Refused == 1 })
	forger.Close()
	if _, err := victim.Write([]byte("mine")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the socket that may is not let in", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) > 0 })
	mu.Lock()
	defer mu.Unlock()
	if got[0] != "mine" {
		t.Errorf("got %q", got)
	}
}

// TestFlowQueueIsBounded: nobody takes what comes.
func TestFlowQueueIsBounded(t *testing.T) {
	stop := make(chan struct{})
	ls, fs := listenFlows(t, Config{HandleFlow: func(_ context.Context, f *Flow) {
		<-stop
		for n := 0; ; n++ {
			d, err := f.Receive(nil)
			if err != nil {
				return
			}
			f.Send(fmt.Append(nil, n))
			d.Release()
		}
	}}, "127.0.0.1:0")
	conn := sendTo(t, fs)
	const sent = 3 * flowQueue
	for n := range sent {
		if _, err := conn.Write([]byte{byte(n)}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a datagram is neither queued nor dropped", func() bool {
			return int(fs.queued.Load()/smallDatagram)+int(ls.Status()[0].Dropped) == n+1
		})
	}
	if s := ls.Status()[0]; s.Dropped != sent-flowQueue {
		t.Errorf("%d of %d are dropped", s.Dropped, sent)
	}
	close(stop)
	eventually(t, "memory of datagrams is not given back", func() bool { return fs.queued.Load() == 0 })
}

// TestListenerQueueIsBounded by the memory of all its flows.
func TestListenerQueueIsBounded(t *testing.T) {
	fs := &flows{}
	f := &Flow{of: fs, queue: make(chan *Datagram, 1<<16), over: make(chan struct{})}
	for range 1 << 16 {
		fs.enqueue(f, newDatagram(make([]byte, 10)))
	}
	if held := fs.queued.Load(); held > listenerQueue || held < listenerQueue/2 {
		t.Errorf("%d bytes are held", held)
	}
	f.drain()
	if held := fs.queued.Load(); held != 0 {
		t.Errorf("%d bytes are held of nothing", held)
	}
}

// TestFlowsAreBounded, and the silent ones make place.
func TestFlowsAreBounded(t *testing.T) {
	ls, fs := listenFlows(t, Config{MaxFlows: 2}, "127.0.0.1:0")
	a, b, c := sendTo(t, fs), sendTo(t, fs), sendTo(t, fs)
	askUDP(t, a, "a")
	askUDP(t, b, "b")
	if _, err := c.Write([]byte("c")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a third flow is let in", func() bool { return ls.Status()[0].Refused == 1 })
	fs.tick.Add(askedOnce)
	askUDP(t, b, "b")
	askUDP(t, c, "c") // in the place of a
	if s := ls.Status()[0]; s.Active != 2 || s.Accepted != 3 {
		t.Errorf("%+v", s)
	}
	d := sendTo(t, fs)
	fs.tick.Add(quietFlow)
	askUDP(t, d, "d")
	if s := ls.Status()[0]; s.Accepted != 4 {
		t.Errorf("%+v", s)
	}
}

// TestFlowsFromOutside: nobody is asked who they are, and each address has so many.
func TestFlowsFromOutside(t *testing.T) {
	ls := testListeners(t, Config{HandleFlow: upper, MaxOfSource: 2})
	rule := Listener{As: orders, To: orders, Port: 53, UDP: true, Gateway: true, Address: netip.MustParseAddrPort("0.0.0.0:0")}
	ls.start(t, rule)
	fs := ls.open[rule.place()].flows
	at := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: fs.Addr().(*net.UDPAddr).Port}
	from := func(host byte) *net.UDPConn {
		conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, host)}, at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn
	}
	var other *net.UDPConn
	onThreadOf(t, 65534, func() { other = from(1) })
	askUDP(t, other, "x")
	askUDP(t, from(1), "x")
	third := from(1)
	if _, err := third.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a third flow of one address is let in", func() bool { return ls.Status()[0].Refused == 1 })
	askUDP(t, from(2), "x")
	fs.tick.Add(askedOnce)
	askUDP(t, third, "x")
	if s := ls.Status()[0]; s.Accepted != 4 || s.Refused != 1 {
		t.Errorf("%+v", s)
	}
}

// TestSilentFlowEnds: its socket is there, and sends nothing.
func TestSilentFlowEnds(t *testing.T) {
	ended := make(chan error, 1)
	ls, fs := listenFlows(t, Config{HandleFlow: func(_ context.Context, f *Flow) {
		for {
			d, err := f.Receive(nil)
			if err != nil {
				ended <- err
				return
			}
			f.Send(d.Bytes())
			d.Release()
		}
	}}, "127.0.0.1:0")
	conn := sendTo(t, fs)
	askUDP(t, conn, "x")
	fs.tick.Add(silentFlow) // the next sweep is one more
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("a silent flow goes on")
	}
	askUDP(t, conn, "y")
	if s := ls.Status()[0]; s.Accepted != 2 {
		t.Errorf("%+v", s)
	}
}

func TestReceiveStops(t *testing.T) {
	f := &Flow{of: &flows{}, queue: make(chan *Datagram, 1), over: make(chan struct{})}
	stop := make(chan struct{})
	close(stop)
	if _, err := f.Receive(stop); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
}

// TestClosedListenerEndsItsFlows, and its address is free for another.
func TestClosedListenerEndsItsFlows(t *testing.T) {
	ls, fs := listenFlows(t, Config{}, "127.0.0.1:0")
	conn := sendTo(t, fs)
	askUDP(t, conn, "x")
	var running sync.WaitGroup
	ls.reconcile(t.Context(), nil, &running)
	eventually(t, "flows go on without a listener", func() bool { return fs.active.Load() == 0 })
}

// TestUDPOnlyOnLoopback: who sends from elsewhere could not be known.
func TestUDPOnlyOnLoopback(t *testing.T) {
	ls := testListeners(t, Config{HandleFlow: upper})
	defer ls.owners.close()
	rule := listenerOn("0.0.0.0:0")
	rule.UDP = true
	if _, err := ls.listenUDP(t.Context(), rule, &socket{}); err == nil {
		t.Error("a listener of UDP is opened on every address")
	}
}

func TestOthersWithThePort(t *testing.T) {
	o, err := newOwners(unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	a, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	port := a.LocalAddr().(*net.UDPAddr).Port
	for i, network := range []string{"udp4", "udp6"} {
		var b *net.UDPConn
		if network == "udp4" {
			b, err = net.ListenUDP(network, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3), Port: port})
		} else {
			b, err = net.ListenUDP(network, &net.UDPAddr{IP: net.IPv6loopback, Port: port})
		}
		if err != nil {
			t.Skip(err)
		}
		defer b.Close()
		cookies := map[uint64]bool{}
		if err := o.sharers(uint16(port), func(o Owner) error { cookies[o.cookie] = true; return nil }); err != nil || len(cookies) != i+2 {
			t.Errorf("%d sockets have the port, %v", len(cookies), err)
		}
	}
	if err := o.sharers(uint16(port), func(Owner) error { return ErrNotAllowed }); !errors.Is(err, ErrNotAllowed) {
		t.Error(err)
	}
	if _, err := o.sender(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), netip.MustParseAddrPort("127.0.0.1:9")); err != nil {
		t.Error(err)
	}
	a.Close()
	if owner, err := o.sender(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), netip.MustParseAddrPort("127.0.0.1:9")); !errors.Is(err, ErrNoOwner) {
		t.Errorf("%+v, %v of a socket that is closed", owner, err)
	}
}

// TestFlowAllocatesNothing for a datagram, once its flow is there.
func TestFlowAllocatesNothing(t *testing.T) {
	_, fs := listenFlows(t, Config{HandleFlow: func(_ context.Context, f *Flow) {
		for {
			d, err := f.Receive(nil)
			if err != nil {
				return
			}
			f.Send(d.Bytes())
			d.Release()
		}
	}}, "127.0.0.1:0")
	conn := sendTo(t, fs)
	p := make([]byte, 1000)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := conn.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(p); err != nil {
			t.Fatal(err)
		}
	}); n >= 1 { // a collection may empty the pools
		t.Errorf("%v allocations a datagram", n)
	}
}
