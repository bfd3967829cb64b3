package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sennit-mesh/sennit/bench/load"
	"github.com/sennit-mesh/sennit/internal/launch"
)

// StartZtunnel starts one ztunnel that is both ends: it takes connections over SOCKS5 and carries them, in HTTP/2
// CONNECT streams over mutual TLS 1.3 (HBONE), to its own other listener, which passes them on. Its ports are fixed
// and the same in every process, so that there cannot be two. It relays bytes, HTTP/1.1 among them, and looks at
// none. It needs a binary with the feature "testing", which makes its certificates without an authority.
func StartZtunnel(program string) Starter {
	return Starter{
		Name: Ztunnel,
		Find: func(ctx context.Context) (string, error) {
			if _, err := os.Stat(program); err != nil {
				return "", fmt.Errorf("%w: %w", ErrMissing, err)
			}
			out, err := exec.CommandContext(ctx, program, "version").Output()
			if err != nil {
				return "", fmt.Errorf("ask %s for its version: %w", program, err)
			}
			return ztunnelVersion(string(out)), nil
		},
		Start: func(ctx context.Context, dir string, origin Origin) (*System, error) {
			return startZtunnel(ctx, program, dir, origin)
		},
	}
}

// ztunnelWorkload tells ztunnel that what listens on loopback is to be reached over HBONE.
const ztunnelWorkload = `workloads:
- {uid: bench, name: local, namespace: default, serviceAccount: default, workloadIps: ["127.0.0.1"], protocol: HBONE, node: local, network: "", services: {}}
policies: []
services: []
`

// ztunnelSOCKS is where it listens for applications.
const ztunnelSOCKS = "127.0.0.1:15080"

func startZtunnel(ctx context.Context, program, dir string, origin Origin) (*System, error) {
	file := filepath.Join(dir, "workloads.yaml")
	if err := os.WriteFile(file, []byte(ztunnelWorkload), 0o600); err != nil {
		return nil, err
	}
	s := &System{Name: Ztunnel}
	for _, way := range []struct {
		into *load.Dial
		to   string
	}{{&s.HTTP, origin.HTTP}, {&s.TCP, origin.TCP}} {
		to, err := netip.ParseAddrPort(way.to)
		if err != nil {
			return nil, err
		}
		*way.into = overSOCKS(ztunnelSOCKS, to)
	}
	var err error
	s.Front, err = launch.Start(dir, Ztunnel, []string{program}, []string{
		"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=default/local/default", "NODE_NAME=local", "FAKE_CA=true", "XDS_ADDRESS=",
		"LOCAL_XDS_PATH=" + file, "UNSTABLE_ENABLE_SOCKS5=true", "ZTUNNEL_WORKER_THREADS=" + strconv.Itoa(workers), "RUST_LOG=error",
	})
	if err != nil {
		return nil, err
	}
	return s, s.ready(ctx)
}

// ztunnelVersion finds the version in what ztunnel prints of itself.
func ztunnelVersion(output string) string {
	for _, name := range []string{`Version:"`, `GitRevision:"`} {
		if _, rest, ok := strings.Cut(output, name); ok {
			if version, _, _ := strings.Cut(rest, `"`); version != "" && version != "unknown" {
				return version[:min(12, len(version))] // of a commit, as much as tells it from others
			}
		}
	}
	return "unknown"
}

// overSOCKS dials an IPv4 address through a SOCKS5 proxy that asks for no name (RFC 1928).
func overSOCKS(proxy string, to netip.AddrPort) load.Dial {
	connect := append([]byte{5, 1, 0, 1}, to.Addr().AsSlice()...) // version 5, connect, reserved, IPv4
	connect = binary.BigEndian.AppendUint16(connect, to.Port())
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := load.To(proxy)(ctx)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		err = ask(conn, connect)
		if !stop() {
			err = errors.Join(ctx.Err(), err)
		}
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("SOCKS5 at %s: %w", proxy, err)
		}
		return conn, nil
	}
}

func ask(conn net.Conn, connect []byte) error {
	var answer [10]byte                                    // version, status, reserved, IPv4, address, port
	if _, err := conn.Write([]byte{5, 1, 0}); err != nil { // one method: no authentication
		return err
	}
	if _, err := io.ReadFull(conn, answer[:2]); err != nil {
		return err
	}
	if _, err := conn.Write(connect); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[1] != 0 {
		return fmt.Errorf("refused with %d", answer[1])
	}
	return nil
}
