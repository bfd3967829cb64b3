package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// freePortTries is how many numbers are tried where any will do: one that UDP has free may be taken for TCP.
const freePortTries = 20

// listenLanes opens the UDP port of the lanes, and with tcp the TCP port of the same number. Port 0 is any number that
// both have free.
func listenLanes(at netip.AddrPort, tcp bool) (*net.UDPConn, *net.TCPListener, error) {
	for try := 1; ; try++ {
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return nil, nil, fmt.Errorf("lanes: %w (another process has this UDP port, or it needs a privilege; choose with --lanes)", err)
		}
		if !tcp {
			return udp, nil, nil
		}
		listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(udp.LocalAddr().(*net.UDPAddr).AddrPort()))
		if err == nil {
			return udp, listener, nil
		}
		if err = errors.Join(err, udp.Close()); at.Port() != 0 || try == freePortTries {
			return nil, nil, fmt.Errorf("lanes: %w (another process has the TCP port of the same number; choose another with --lanes, or have no lanes over TCP with --lane quic)", err)
		}
	}
}
