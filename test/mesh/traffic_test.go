package mesh

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestRecordingFindsPlainText lets HTTP pass in the three ways in which it could: on the bus's port, on the
// lanes' port, and elsewhere.
func TestRecordingFindsPlainText(t *testing.T) {
	n := newNetwork(t, []string{"one", "two"})
	recording, err := n.record(busPort)
	if err != nil {
		t.Fatal(err)
	}
	request := "GET /" + Marker + " HTTP/1.1\r\nHost: two\r\n\r\n"
	for _, port := range []int{busPort, 8080} {
		var l net.Listener
		if err := n.on("two", func() (err error) {
			l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", n.address("two"), port))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.NotFoundHandler()}
		go server.Serve(l)
		t.Cleanup(func() { server.Close() })
		var conn net.Conn
		if err := n.on("one", func() (err error) { conn, err = net.Dial("tcp", l.Addr().String()); return err }); err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, request)
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	var socket *net.UDPConn
	err = n.on("one", func() (err error) {
		socket, err = net.DialUDP("udp", &net.UDPAddr{Port: lanesPort}, &net.UDPAddr{IP: net.ParseIP(n.address("two")), Port: lanesPort})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(socket, request)
	socket.Close()
	found := strings.Join(recording.Stop().Faults, "\n")
	for _, want := range []string{
		`from 10.77.0.11:[0-9]+ to 10.77.0.12:4222: no TLS record: "GET /plain`,
		`from 10.77.0.12:4222 to 10.77.0.11:[0-9]+: no TLS record: "HTTP/1.1 404`,
		`datagram from 10.77.0.11:7443 to 10.77.0.12:7443 holds ".*HTTP/1.1`,
		`protocol 6 from 10.77.0.11:[0-9]+ to 10.77.0.12:8080: .*GET /plain`,
	} {
		if !regexp.MustCompile(want).MatchString(found) {
			t.Errorf("no %s in:\n%s", want, found)
		}
	}
}

// TestRecords cuts a stream of TLS records in every way.
func TestRecords(t *testing.T) {
	stream := []byte{22, 3, 1, 0, 4, 1, 2, 3, 4, 20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 2, 5, 6}
	for i := range stream {
		for j := i; j <= len(stream); j++ {
			var r records
			whole := 0
			for _, part := range [][]byte{stream[:i], stream[i:j], stream[j:]} {
				n, err := r.take(part)
				if err != nil {
					t.Fatalf("cut at %d and %d: %v", i, j, err)
				}
				whole += n
			}
			if whole != 3 {
				t.Errorf("cut at %d and %d: %d records", i, j, whole)
			}
		}
	}
	for _, other := range []string{"INFO {}\r\n", "GET / HTTP/1.1", "\x16\x03\x01\xff\xff"} {
		var r records
		if _, err := r.take([]byte(other)); err == nil {
			t.Errorf("%q was taken for TLS", other)
		}
	}
}
