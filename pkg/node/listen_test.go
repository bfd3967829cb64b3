package node

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
)

func TestListenLanes(t *testing.T) {
	any := netip.MustParseAddrPort("127.0.0.1:0")
	udp, tcp, err := listenLanes(any, true)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
	if tcp.Addr().(*net.TCPAddr).AddrPort() != at {
		t.Errorf("TCP at %s, UDP at %s", tcp.Addr(), at)
	}
	if _, _, err := listenLanes(at, false); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the UDP port is taken: %v", err)
	}
	udp.Close()
	if _, _, err := listenLanes(at, true); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the TCP port is taken: %v", err)
	}
	alone, none, err := listenLanes(at, false)
	if err != nil || none != nil {
		t.Fatalf("without TCP: %v, %v", none, err)
	}
	alone.Close()
}

// Any number that is chosen is one that both have free.
func TestListenLanesFindsAPortThatBothHaveFree(t *testing.T) {
	for range 200 {
		udp, tcp, err := listenLanes(netip.MustParseAddrPort("127.0.0.1:0"), true)
		if err != nil {
			t.Fatal(err)
		}
		udp.Close()
		defer tcp.Close() // stays taken
	}
}
