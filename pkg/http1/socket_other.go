//go:build !linux

package http1

import (
	"net"
	"syscall"
)

// streamSocket is known for Linux only; elsewhere connections wait with a plain read.
func streamSocket(net.Conn) syscall.RawConn { return nil }

func (in *input) readSocket(uintptr) bool { return true }

// A silence cannot be told without the descriptor: it is assumed.
type silence struct{}

func (s *silence) init(syscall.RawConn) {}

func (s *silence) holds() bool { return true }
