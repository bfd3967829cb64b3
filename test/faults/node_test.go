package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// nodeArgs are the command line of a node that keeps everything below dir.
func nodeArgs(dir, name string, lanes int) []string {
	return []string{"node", "--state-dir", filepath.Join(dir, name, "state"), "--services-dir", filepath.Join(dir, name, "services.d"),
		"--lanes", fmt.Sprintf("127.0.0.1:%d", lanes), "--socket", filepath.Join(dir, name+".sock"), "--access-log", ""}
}

func token(t *testing.T, m *launch.Mesh, node string) string {
	t.Helper()
	token, err := m.Token(t.Context(), node, "default/orders")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestJoiningSaysWhatIsWrong starts hosts that may not join.
func TestJoiningSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	m := startMesh(t)
	lanes := ports(t, 1)[0]
	web1 := token(t, m, "web1")
	if p, err := m.Join(t.Context(), "taken", fmt.Sprintf("127.0.0.1:%d", ports(t, 1)[0]), "default/orders"); err != nil {
		t.Fatal(err)
	} else if err := p.Stop(stopTime); err != nil || p.Err() != nil {
		t.Errorf("a node that is asked to end: %v, %v", err, p.Err())
	}
	other := startMesh(t)
	foreign := token(t, other, "web1")
	if err := other.Controller().Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(other.Dir, "controller")); err != nil {
		t.Fatal(err)
	}
	if err := other.StartController(t.Context()); err != nil { // another cluster, where the token says that its own is
		t.Fatal(err)
	}
	used := token(t, m, "used")
	if p, err := launch.Start(m.Dir, "first", append([]string{program(t)}, nodeArgs(t.TempDir(), "used", lanes)...), []string{"SENNIT_JOIN_TOKEN=" + used}); err != nil {
		t.Fatal(err)
	} else {
		defer p.Kill()
		awaitLog(t, p, "node runs")
		if err := p.Stop(stopTime); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name  string
		token string
		env   []string
		want  []string
	}{
		{"no token", "", nil, []string{"has not joined", "--join", "join-token create"}},
		{"half a token", web1[:len(web1)/2], nil, []string{"not a whole join token"}},
		{"no token at all", "hello", nil, []string{"not a whole join token"}},
		{"a letter of the token changed", tampered(web1), nil, []string{"not a whole join token", "join-token create"}},
		{"a token of another cluster", foreign, nil, []string{"another cluster", "make a token where it is to join"}},
		{"a token that was used", used, nil, []string{"used", "join-token create --node used"}},
		{"a token that has expired", web1, []string{clockVariable + "=720h"}, []string{"expired", "join-token create --node web1"}},
		{"a clock ahead, within the life of a token", web1, []string{clockVariable + "=40m"}, []string{"clock", "ahead", "set the one that is wrong"}},
		{"a clock an hour behind", web1, []string{clockVariable + "=-1h"}, []string{"this host's clock and the controller's disagree", "compare the clocks"}},
		{"a file that is not there", "@/nowhere/token", nil, []string{"read the join token", "/nowhere/token"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := nodeArgs(t.TempDir(), "web1", ports(t, 1)[0])
			if tt.token != "" {
				args = append(args, "--join", tt.token)
			}
			refusedStart{argv: args, env: tt.env, want: tt.want}.check(t)
		})
	}
	t.Run("a second token for a name that is taken", func(t *testing.T) {
		_, err := m.Token(t.Context(), "taken", "default/orders")
		if err == nil || !strings.Contains(err.Error(), "another host has this node's name") {
			t.Errorf("%v, want it refused", err)
		}
	})
}

// tampered changes a letter in the middle.
func tampered(token string) string {
	at := len(token) / 2
	other := byte('A')
	if token[at] == other {
		other = 'B'
	}
	return token[:at] + string(other) + token[at+1:]
}

// TestTwoHostsWithOneName lets a second host join with a token that was made before the first one did.
func TestTwoHostsWithOneName(t *testing.T) {
	t.Parallel()
	m := startMesh(t)
	first, second := token(t, m, "web1"), token(t, m, "web1")
	p, err := launch.Start(m.Dir, "web1", append([]string{program(t)}, nodeArgs(t.TempDir(), "web1", ports(t, 1)[0])...), []string{"SENNIT_JOIN_TOKEN=" + first})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(stopTime)
	awaitLog(t, p, "node runs")
	args := append(nodeArgs(t.TempDir(), "web1", ports(t, 1)[0]), "--join", second)
	refusedStart{argv: args, want: []string{"another host has this node's name", "web1"}}.check(t)
	if p.Err() != nil || strings.Contains(p.Tail(10_000), "frozen") {
		t.Errorf("the first host was disturbed: %s", p.Tail(10_000))
	}
}

// TestNodeSaysWhatIsWrong starts nodes that joined before and cannot run any more.
func TestNodeSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	m := startMesh(t)
	for i, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string, args []string) refusedStart
	}{
		{"the lanes' port is taken", func(t *testing.T, dir string, args []string) refusedStart {
			l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return refusedStart{argv: append(args, "--lanes", l.LocalAddr().String()), want: []string{"lanes", "in use", "--lanes"}}
		}},
		{"the identity is no database", func(t *testing.T, dir string, args []string) refusedStart {
			return spoiltFile(t, dir, "identity.db", args, func([]byte) []byte { return []byte("no") }, "identity.db")
		}},
		{"what is kept is no database", func(t *testing.T, dir string, args []string) refusedStart {
			return spoiltFile(t, dir, "node.db", args, func([]byte) []byte { return []byte("no") }, "node.db", "remove it")
		}},
		{"what is kept is spoilt inside", func(t *testing.T, dir string, args []string) refusedStart {
			return spoiltFile(t, dir, "node.db", args, func(b []byte) []byte { return scribble(b, 8192) }, "node.db", "remove it")
		}},
		{"what is kept is cut off", func(t *testing.T, dir string, args []string) refusedStart {
			return spoiltFile(t, dir, "node.db", args, func(b []byte) []byte { return b[:5000] }, "node.db", "remove it")
		}},
		{"others can read the keys", func(t *testing.T, dir string, args []string) refusedStart {
			if err := os.Chmod(filepath.Join(dir, "identity.db"), 0o644); err != nil {
				t.Fatal(err)
			}
			return refusedStart{argv: args, want: []string{"identity.db", "others can read", "chmod 600"}}
		}},
		{"the state belongs to somebody else", func(t *testing.T, dir string, args []string) refusedStart {
			needRoot(t)
			open(t, dir)
			return refusedStart{argv: args, program: linked(t, m.Dir), uid: 65534, want: []string{dir, "permission denied", "run as"}}
		}},
		{"the state directory cannot be made", func(t *testing.T, dir string, args []string) refusedStart {
			if err := os.WriteFile(filepath.Join(m.Dir, "file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return refusedStart{argv: append(args, "--state-dir", filepath.Join(m.Dir, "file/state")), want: []string{"not a directory", "--state-dir"}}
		}},
		{"the access log cannot be written", func(t *testing.T, dir string, args []string) refusedStart {
			return refusedStart{argv: append(args, "--access-log", "/nowhere/access.log"), want: []string{"/nowhere/access.log", "--access-log"}}
		}},
		{"an address to advertise that is none", func(t *testing.T, dir string, args []string) refusedStart {
			return refusedStart{argv: append(args, "--advertise", "web1.example"), want: []string{"--advertise", `"web1.example"`, "IP address"}}
		}},
		{"a word among the flags", func(t *testing.T, dir string, args []string) refusedStart {
			return refusedStart{argv: append(args, "start"), want: []string{`"start"`, "--help"}}
		}},
		{"the socket's folder cannot be made", func(t *testing.T, dir string, args []string) refusedStart {
			return refusedStart{argv: append(args, "--socket", "/proc/sennit/node.sock"), want: []string{"/proc/sennit", "--socket"}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := fmt.Sprintf("web%d", i)
			args := nodeArgs(m.Dir, name, ports(t, 1)[0])
			p, err := launch.Start(m.Dir, name, append([]string{program(t)}, args...), []string{"SENNIT_JOIN_TOKEN=" + token(t, m, name)})
			if err != nil {
				t.Fatal(err)
			}
			awaitLog(t, p, "node runs")
			if err := p.Stop(stopTime); err != nil {
				t.Fatal(err)
			}
			tt.spoil(t, filepath.Join(m.Dir, name, "state"), args).check(t)
		})
	}
}

// TestNodeWithAWrongClock starts nodes that joined before on hosts whose clock has been set wrong since: they run with
// what they have, and say what is the matter.
func TestNodeWithAWrongClock(t *testing.T) {
	t.Parallel()
	m := startMesh(t)
	for _, tt := range []struct{ name, offset, want string }{
		{"behind", "-1h", "the bus is away, and the node serves with what it has: this host's clock and the controller's disagree"},
		{"ahead", "1h", "by this host's clock, and the controller's says"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{program(t)}, nodeArgs(m.Dir, tt.name, ports(t, 1)[0])...)
			p, err := launch.Start(m.Dir, tt.name, args, []string{"SENNIT_JOIN_TOKEN=" + token(t, m, tt.name)})
			if err != nil {
				t.Fatal(err)
			}
			awaitLog(t, p, "node runs")
			if err := p.Stop(stopTime); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(m.ServicesDir(tt.name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := m.Declare(tt.name, "orders.yaml", "service: default/orders\nports: [{port: 80, protocol: http, address: 127.0.0.1:8080}]\n"); err != nil {
				t.Fatal(err)
			}
			if p, err = launch.Start(m.Dir, tt.name+"-again", args, []string{clockVariable + "=" + tt.offset}); err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			awaitLog(t, p, "node runs")
			awaitStatusOf(t, m, tt.name, "the clock", func(s report.Node) bool {
				problems := strings.Join(s.Problems, "\n")
				return strings.Contains(problems, tt.want) && strings.Contains(problems, "timedatectl set-ntp true")
			})
		})
	}
}

func spoiltFile(t *testing.T, dir, file string, args []string, change func([]byte) []byte, want ...string) refusedStart {
	t.Helper()
	damaged(t, dir, file, change, "")
	return refusedStart{argv: args, want: want}
}

// TestNodeGoesOn gives a node that runs what it cannot use: it keeps what it had, and says so.
func TestNodeGoesOn(t *testing.T) {
	t.Parallel()
	m := startMesh(t)
	taken := occupy(t)
	if _, err := m.Join(t.Context(), "web1", fmt.Sprintf("127.0.0.1:%d", ports(t, 1)[0]), "default/orders", "default/cart"); err != nil {
		t.Fatal(err)
	}
	declare := func(document string) {
		t.Helper()
		if err := m.Declare("web1", "orders.yaml", document); err != nil {
			t.Fatal(err)
		}
	}
	good := "service: default/orders\nports: [{port: 80, protocol: http, address: 127.0.0.1:8080}]\n"
	declare(good)
	awaitStatus(t, m, "the service", func(s report.Node) bool { return len(s.Services) == 1 && len(s.Problems) == 0 })

	for name, bad := range map[string]string{
		"not YAML": "service: [default/orders\n", "an unknown field": good + "portz: []\n", "a wrong type": "service: default/orders\nports: 80\n",
		"empty": "", "binary": "\x00\x01\x02",
	} {
		declare(bad)
		awaitStatus(t, m, name, func(s report.Node) bool {
			return len(s.Services) == 1 && len(s.Problems) > 0 && strings.Contains(strings.Join(s.Problems, "\n"), "orders.yaml") || bad == "" && len(s.Services) == 0
		})
		declare(good)
		awaitStatus(t, m, "good again after "+name, func(s report.Node) bool { return len(s.Services) == 1 && len(s.Problems) == 0 })
	}
	declare(good + fmt.Sprintf("listeners: [{as: default/orders, to: default/cart:80, address: '127.0.0.1:%d', uid: %d}]\n", taken, os.Getuid()))
	awaitStatus(t, m, "the listener's port is taken", func(s report.Node) bool {
		return len(s.Listeners) == 1 && strings.Contains(s.Listeners[0].Error, "in use")
	})
	t.Run("a second node with the same state", func(t *testing.T) {
		args := append(nodeArgs(m.Dir, "web1", ports(t, 1)[0]), "--socket", filepath.Join(t.TempDir(), "s"))
		refusedStart{argv: args, want: []string{"identity.db", "another process", "state directory of its own"}}.check(t)
	})
	if m.Node("web1").Err() != nil {
		t.Error("the node ended")
	}
}

// TestRefusedDocumentsChangeNothing sends what is no document to the API.
func TestRefusedDocumentsChangeNothing(t *testing.T) {
	t.Parallel()
	m := startMesh(t)
	before, err := put(t.Context(), m, route("orders", "1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, body, want string }{
		{"not YAML", routesPath + "/orders", "spec: [", "yaml"},
		{"an unknown field", routesPath + "/orders", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: orders}\nspec: {rulez: []}", "rulez"},
		{"a wrong type", routesPath + "/orders", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: orders}\nspec: {rules: 7}", "rules"},
		{"another kind", routesPath + "/orders", "apiVersion: v1\nkind: Pod\nmetadata: {name: orders}", "kind"},
		{"an unknown kind", "/apis/gateway.networking.k8s.io/v1/namespaces/default/nonsense/orders", "apiVersion: gateway.networking.k8s.io/v1\nkind: Nonsense\nmetadata: {name: orders}", ""},
		{"another name", routesPath + "/orders", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: other}\nspec: {}", "name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, answer := patch(t, m, tt.path, tt.body)
			if status < 400 || status >= 500 {
				t.Errorf("answered with %d: %s", status, answer)
			}
			if !strings.Contains(strings.ToLower(answer), tt.want) {
				t.Errorf("the answer does not name %q: %s", tt.want, answer)
			}
			var now routeDocument
			if err := launch.Call(t.Context(), m.Socket(), http.MethodGet, routesPath+"/orders", nil, &now); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(now.Spec) != fmt.Sprint(before.Spec) || now.Metadata.Labels["step"] != "1" {
				t.Errorf("it changed: %v", now)
			}
		})
	}
}

func patch(t *testing.T, m *launch.Mesh, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, "http://sennit"+path+"?fieldManager=test&force=true&fieldValidation=Strict", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/apply-patch+yaml")
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", m.Socket())
	}}
	response, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer := make([]byte, 4096)
	n, _ := response.Body.Read(answer)
	return response.StatusCode, string(answer[:n])
}

// awaitStatus waits until a node says of itself what is wanted.
func awaitStatus(t *testing.T, m *launch.Mesh, what string, good func(report.Node) bool) {
	t.Helper()
	awaitStatusOf(t, m, "web1", what, good)
}

func awaitStatusOf(t *testing.T, m *launch.Mesh, node, what string, good func(report.Node) bool) {
	t.Helper()
	var last report.Node
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var s report.Node
		if s, err = m.NodeStatus(t.Context(), node); err != nil {
			continue // its socket opens a moment after the node runs
		}
		if last = s; good(s) {
			return
		}
	}
	t.Fatalf("%s: the node says %+v, %v", what, last, err)
}

// awaitLog waits until a process has logged something.
func awaitLog(t *testing.T, p *launch.Process, words string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(p.Tail(1<<20), words) {
			return
		}
		select {
		case <-p.Done():
			t.Fatalf("%s ended: %s", p.Name, p.Tail(2000))
		default:
		}
	}
	t.Fatalf("%s does not say %q: %s", p.Name, words, p.Tail(2000))
}

// TestJoiningWithoutController wants a host whose controller is away to say so and end.
func TestJoiningWithoutController(t *testing.T) {
	t.Parallel()
	m := startMesh(t)
	secret := token(t, m, "web1")
	if err := m.Controller().Kill(); err != nil {
		t.Fatal(err)
	}
	args := append(nodeArgs(t.TempDir(), "web1", ports(t, 1)[0]), "--join", secret)
	refusedStart{argv: args, want: []string{"join", "reach the bus at 127.0.0.1:", "refused", "does the controller run there"}}.check(t)
}
