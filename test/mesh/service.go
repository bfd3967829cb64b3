package mesh

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// A Service is one instance of a service for tests, a process on a node's host:
//
//	http  /            its version, and which request that answers
//	      /echo        the request's body
//	      /take        how many bytes the request's body had
//	      /give?n=N    N bytes
//	      /hold?version=V  its version; where that is V, not before the caller is gone or the process ends
//	      /held        how many requests are held
//	      /websocket   an upgrade; answers every text frame with itself
//	udp   each datagram, behind the version and a line break; of DNS the version, as a TXT record
//	tcp   everything that is sent, once the sender has closed its side, behind the version and a line break
type Service struct {
	Name     string // namespace/name
	Instance string // "": the node's name
	Version  string // label and answer
	Port     int    // that callers name; 0: 80
	Protocol string // "": http
	// Plaintext has the node take callers without an identity at this address; "": at none.
	Plaintext string
	Health    string // a line of services.d such as `health: {tcp: {port: "80"}, interval: 500ms}`
}

// An Instance is the process of a Service, and where on its host it listens.
type Instance struct {
	*launch.Process
	Node, Address string
}

// Serve starts an instance on a node's host and registers it.
func (m *Mesh) Serve(node string, s Service) *Instance {
	m.t.Helper()
	if s.Port == 0 {
		s.Port = 80
	}
	if s.Protocol == "" {
		s.Protocol = "http"
	}
	if s.Instance == "" {
		s.Instance = node
	}
	name := node + "-" + s.Instance + "-" + s.Version + "-" + strings.ReplaceAll(s.Name, "/", ".")
	file := filepath.Join(m.Dir, name+".address")
	m.Prefix[name] = m.Prefix[node]
	p, err := m.Run(name, m.self, "service", "-address-file", file, "-version", s.Version, "-protocol", s.Protocol)
	m.must("start "+name, err)
	var address []byte
	m.Eventually(name+" listens", func(context.Context) error {
		address, err = os.ReadFile(file)
		return err
	})
	plaintext := ""
	if s.Plaintext != "" {
		plaintext = fmt.Sprintf(", plaintext: %q", s.Plaintext)
	}
	m.Write(node, fmt.Sprintf("service: %s\ninstance: %s\nlabels: {version: %q}\nports: [{port: %d, name: main, protocol: %s, address: %q%s}]\n%s\n",
		s.Name, s.Instance, s.Version, s.Port, s.Protocol, address, plaintext, s.Health))
	return &Instance{p, node, string(address)}
}

// runService is what a process of Serve runs.
func runService(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("service", flag.ContinueOnError)
	file := flags.String("address-file", "", "file to write the address to")
	version := flags.String("version", "", "what to answer")
	protocol := flags.String("protocol", "http", "http, tcp or udp")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *protocol == "udp" {
		conn, err := new(net.ListenConfig).ListenPacket(ctx, "udp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		if err := tell(*file, conn.LocalAddr()); err != nil {
			return err
		}
		return serveUDP(ctx, conn, *version)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := tell(*file, l.Addr()); err != nil {
		return err
	}
	if *protocol == "tcp" {
		return serveTCP(ctx, l, *version)
	}
	server := &http.Server{Handler: handler(ctx, *version), ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// tell writes where a service listens to a file, at once.
func tell(file string, address net.Addr) error {
	if err := os.WriteFile(file+".new", []byte(address.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func handler(ctx context.Context, version string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		length, _ := io.Copy(io.Discard, r.Body) // a broken body breaks the answer too
		w.Header().Set(answerTo, requestIs(r.Method, r.URL.Path, length))
		io.WriteString(w, version)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/1.1 has it
		if _, err := io.Copy(w, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	})
	mux.HandleFunc("/take", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, n)
	})
	mux.HandleFunc("/give", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.CopyN(w, zeros{}, n) // the caller has gone
	})
	var held atomic.Int32
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Query().Get("version") == version {
			held.Add(1)
			defer held.Add(-1)
			select {
			case <-ctx.Done():
			case <-r.Context().Done():
			}
		}
		io.WriteString(w, version)
	})
	mux.HandleFunc("/held", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, held.Load()) })
	mux.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("version") == version {
			w.WriteHeader(http.StatusInternalServerError)
		}
		io.WriteString(w, version)
	})
	mux.HandleFunc("/websocket", serveWebSocket)
	return mux
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// serveWebSocket answers text frames of up to 125 bytes with themselves, until a close frame (RFC 6455).
func serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "want an upgrade", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		acceptKey(r.Header.Get("Sec-WebSocket-Key")))
	for {
		opcode, payload, err := readFrame(buffered.Reader)
		if err != nil {
			return
		}
		if _, err := conn.Write(append([]byte{0x80 | opcode, byte(len(payload))}, payload...)); err != nil || opcode == opClose {
			return
		}
	}
}

const opText, opClose = 1, 8

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// readFrame reads one short frame, masked or not.
func readFrame(r *bufio.Reader) (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	if head[1]&0x7f > 125 {
		return 0, nil, errors.New("long frame")
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, head[1]&0x7f)
	_, err = io.ReadFull(r, payload)
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload, err
}

// serveTCP answers each connection when the caller has closed its side: what comes back shows that one side
// was closed and the other stayed open.
func serveTCP(ctx context.Context, l net.Listener, version string) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() { // ends with its connection, or the process
			defer conn.Close()
			said, err := io.ReadAll(io.LimitReader(conn, 64<<20))
			if err == nil {
				_, _ = conn.Write(append([]byte(version+"\n"), said...)) // the caller has gone
			}
		}()
	}
}

// runStranger becomes another user, sends one request to an address, and prints "served", or "refused: " and how.
func runStranger(ctx context.Context, args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := syscall.Setuid(uid); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+args[1]+"/", nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		fmt.Println("refused:", err)
		return nil
	}
	fmt.Println("served")
	return response.Body.Close()
}
