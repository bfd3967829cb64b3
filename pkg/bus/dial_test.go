package bus

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A network answers connections that are begun from a moment on; all before are lost, and time out.
type network struct {
	mu     sync.Mutex
	mended time.Time
	trip   time.Duration // until a connection stands
	begun  int
	closed int
}

type watchedConn struct {
	net.Conn
	on *network
}

func (c watchedConn) Close() error {
	c.on.mu.Lock()
	defer c.on.mu.Unlock()
	c.on.closed++
	return nil
}

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n.mu.Lock()
	n.begun++
	answers := !time.Now().Before(n.mended)
	n.mu.Unlock()
	if !answers {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-time.After(n.trip):
		return watchedConn{on: n}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestDialNoticesAMendedNetwork wants a connection within half a second and a trip of when the network carries again, wherever
// that falls, and no connection left over.
func TestDialNoticesAMendedNetwork(t *testing.T) {
	for _, tt := range []struct {
		name         string
		mended, trip time.Duration
	}{
		{"at once", 0, time.Millisecond},
		{"behind the kernel's first repetition", 1100 * time.Millisecond, time.Millisecond},
		{"late in an attempt", 4400 * time.Millisecond, time.Millisecond},
		{"between attempts", connectTimeout, time.Millisecond},
		{"after a minute", time.Minute, time.Millisecond},
		{"a long way", 1100 * time.Millisecond, 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				n := &network{mended: began.Add(tt.mended), trip: tt.trip}
				d := &dialer{dial: n.dial}
				attempts := 0
				for {
					attempts++
					conn, err := d.Dial("tcp", "controller:4222")
					if err == nil {
						if conn == nil {
							t.Fatal("no connection and no error")
						}
						break
					}
					time.Sleep(d.delay(attempts))
				}
				if late := time.Since(began) - tt.mended - tt.trip; late > 500*time.Millisecond {
					t.Errorf("connected %s late", late)
				}
				synctest.Wait()
				n.mu.Lock()
				defer n.mu.Unlock()
				if most := int(time.Since(began)/dialAgain) + attempts + 1; n.begun > most {
					t.Errorf("%d connections were begun in %s", n.begun, time.Since(began))
				}
				if n.closed > 0 && tt.trip < dialAgain {
					t.Errorf("%d connections were one too many", n.closed)
				}
			})
		})
	}
}

// TestDialRefused wants the delays to grow where a host refuses, so that a mesh whose controller is down does not storm it.
func TestDialRefused(t *testing.T) {
	d := &dialer{dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}}
	d.unanswered.Store(true)
	if _, err := d.Dial("tcp", "controller:4222"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
	for attempts, least := range map[int]time.Duration{1: reconnectFirst, 4: 8 * reconnectFirst, 100: reconnectMost} {
		if got := d.delay(attempts); got < least || got > 2*least {
			t.Errorf("delay of attempt %d is %s", attempts, got)
		}
	}
}
