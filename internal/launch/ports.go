package launch

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports are taken in blocks, and each block by one process: the process listens on the block's first port for as
// long as it lives, and hands out the others. So what several test programs start at the same time does not meet,
// however long it takes from the choice of a port to the start of what uses it.
const (
	portsFrom = 15000 // below those that systems give to connections that go out,
	portsTo   = 32000 // so that a part which is started again finds its own
	blockSize = 64
)

var blocks struct {
	mu   sync.Mutex
	held []net.Listener // never closed: a block is its process's until that ends
	next int            // the port to try next
	end  int            // of the block in use
}

// FreePorts returns ports of 127.0.0.1 that are free for TCP and UDP alike, and that no other process gets from it
// as long as this one lives. None is returned twice.
func FreePorts(n int) ([]int, error) {
	blocks.mu.Lock()
	defer blocks.mu.Unlock()
	var ports []int
	for len(ports) < n {
		if blocks.next == blocks.end {
			if err := takeBlock(); err != nil {
				return nil, err
			}
		}
		if port := blocks.next; free(port) {
			ports = append(ports, port)
		}
		blocks.next++
	}
	return ports, nil
}

func takeBlock() error {
	const count = (portsTo - portsFrom) / blockSize
	var last error
	for i, at := 0, rand.IntN(count); i < count; i++ {
		first := portsFrom + (at+i)%count*blockSize
		l, err := net.Listen("tcp", address(first))
		if err != nil {
			last = err
			continue
		}
		blocks.held = append(blocks.held, l)
		blocks.next, blocks.end = first+1, first+blockSize
		return nil
	}
	return fmt.Errorf("take a block of free ports: all between %d and %d are in use: %w", portsFrom, portsTo, last)
}

func free(port int) bool {
	l, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	defer l.Close()
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return false
	}
	defer u.Close()
	return true
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
