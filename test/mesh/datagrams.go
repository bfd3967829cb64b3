package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/net/dns/dnsmessage"
)

// serveUDP answers each datagram with the version, a line break and the datagram; and a question of DNS for a TXT record with
// the version.
func serveUDP(ctx context.Context, conn net.PacketConn, version string) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	datagram := make([]byte, 65535)
	for {
		n, from, err := conn.ReadFrom(datagram)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		answer, err := answerDNS(datagram[:n], version)
		if err != nil {
			answer = append([]byte(version+"\n"), datagram[:n]...)
		}
		_, _ = conn.WriteTo(answer, from) // the caller has gone
	}
}

// answerDNS answers a question for a TXT record; an error where the datagram is none.
func answerDNS(datagram []byte, version string) ([]byte, error) {
	var question dnsmessage.Message
	if err := question.Unpack(datagram); err != nil {
		return nil, err
	}
	if question.Response || len(question.Questions) != 1 || question.Questions[0].Type != dnsmessage.TypeTXT {
		return nil, errors.New("no question for a TXT record")
	}
	asked := question.Questions[0]
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: question.ID, Response: true, RecursionDesired: question.RecursionDesired, RecursionAvailable: true},
		Questions: question.Questions,
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: asked.Name, Type: asked.Type, Class: asked.Class, TTL: 1},
			Body:   &dnsmessage.TXTResource{TXT: []string{version}},
		}},
	}
	return answer.Pack()
}

// DialUDP makes a socket on a node's host that is connected to an address.
func (m *Mesh) DialUDP(node, address string) (conn *net.UDPConn, err error) {
	dial := func() error {
		to, err := net.ResolveUDPAddr("udp", address)
		if err == nil {
			conn, err = net.DialUDP("udp", nil, to)
		}
		return err
	}
	if m.network == nil {
		return conn, dial()
	}
	return conn, m.network.on(node, dial)
}

// ListenUDP is Listen for datagrams; it waits until the node has the listener open.
func (m *Mesh) ListenUDP(node, as, to string) string {
	m.t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", m.port())
	m.Write(node, fmt.Sprintf("service: %s\ninstance: %s\nlisteners: [{as: %s, to: %q, protocol: udp, address: %q}]\n", as, "caller-"+strconv.Itoa(m.declared[node]), as, to, address))
	m.Eventually(node+" listens on "+address, func(context.Context) error {
		status, err := m.Status(node)
		if err != nil {
			return err
		}
		for _, l := range status.Listeners {
			if l.Address == address && l.Error == "" {
				return nil
			}
		}
		return fmt.Errorf("listeners %+v", status.Listeners)
	})
	return address
}
