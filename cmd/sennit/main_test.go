package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
	"github.com/sennit-mesh/sennit/pkg/controller"
	"github.com/sennit-mesh/sennit/pkg/node"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sennit": main})
}

// TestScripts runs testdata/script: what people type, and what they see. Beside sennit, scripts may use
//
//	controller [DIR]             runs a controller, whose socket commands find by themselves; its state is in DIR
//	node NAME SERVICE            runs a node that joined, likewise; in its services.d, FREEPORT is one
//	lagging NODE...              puts nodes that apply nothing before the controller; awaited: until a command waits for them
//	applies NODE...              they apply all, and commands that wait were told
//	somebody SERVICE FILE        applies a document of a service as another field manager
//	parts KUBECONFIG             takes it apart: $URL, token, ca.pem, and other.pem of another authority
//	usage sennit ARG...          must end with exit code 2
//	mode MODE FILE               the file's mode, in octal
//	running                      there are processes whose TMPDIR is $RUN; ended: there is none, and it is empty
//	eventually PATTERN COMMAND   repeats `sennit ARG...`, or reading a file, until it prints the pattern
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			t := env.T().(testing.TB)
			run := shortDir(t)
			env.Values[worldKey{}] = &world{TB: t, run: run}
			env.Setenv("SENNIT_SOCKET", filepath.Join(run, "controller.sock"))
			env.Setenv("RUN", run)
			env.Setenv("SENNIT_NODE_SOCKET", filepath.Join(run, "node.sock"))
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "root" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			return os.Getuid() == 0, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"controller": of((*world).controller), "node": of((*world).node),
			"lagging": of((*world).lagging), "awaited": of((*world).awaited), "applies": of((*world).applies),
			"somebody": of((*world).somebody), "parts": of((*world).parts),
			"usage": of(usage), "mode": of(mode), "running": of((*world).running), "ended": of((*world).ended), "eventually": of(eventually),
		},
	})
}

// A world is what runs beside one script.
type world struct {
	testing.TB
	run  string // holds the sockets
	slow *laggards
}

type worldKey struct{}

// of makes a function a command of scripts.
func of(f func(w *world, ts *testscript.TestScript, args []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("this command cannot be negated")
		}
		f(ts.Value(worldKey{}).(*world), ts, args)
	}
}

// shortDir is a directory in which the path of a unix socket is short enough.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sn") //nolint:usetesting // its folders have names that are too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// patience is generous: tests run beside many others.
const patience = 3 * time.Minute

// repeat tries again until it works.
func repeat(ts *testscript.TestScript, what string, try func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("%s: %v", what, err)
		}
	}
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// controller runs a controller until the script ends.
func (w *world) controller(ts *testscript.TestScript, args []string) {
	dir := w.TempDir()
	if len(args) > 0 {
		dir = ts.MkAbs(args[0])
	}
	c, err := controller.New(controller.Config{
		StateDir: dir, Cluster: "demo", TrustDomain: "demo.example", Name: "c1",
		Bus: loopback, API: loopback, Advertise: "127.0.0.1", Socket: ts.Getenv("SENNIT_SOCKET"), Log: bustest.Log(w),
	})
	ts.Check(err)
	bustest.Run(w, c.Run)
	cl := w.client(ts)
	repeat(ts, "start a controller", func(ctx context.Context) error {
		_, err := cl.Cluster(ctx)
		return err
	})
}

func (w *world) client(ts *testscript.TestScript) *client.Client {
	cl, err := client.New(client.Config{Socket: ts.Getenv("SENNIT_SOCKET")})
	ts.Check(err)
	return cl
}

// node runs a node until the script ends.
func (w *world) node(ts *testscript.TestScript, args []string) {
	token, err := api.From(api.JoinTokens, &api.JoinToken{Spec: api.JoinTokenSpec{Node: args[0], Services: args[1:]}})
	ts.Check(err)
	token.SetGenerateName(args[0] + "-")
	made, err := w.client(ts).Create(w.Context(), api.JoinTokens, token)
	ts.Check(err)
	secret, _, err := unstructured.NestedString(made.Object, "status", "token")
	ts.Check(err)
	w.freePort(ts)
	n, err := node.New(w.Context(), node.Config{
		StateDir: w.TempDir(), ServicesDir: ts.MkAbs("services.d"), Join: secret, Lanes: loopback, Advertise: "127.0.0.1",
		Socket: ts.Getenv("SENNIT_NODE_SOCKET"), DrainTime: time.Second, Log: bustest.Log(w),
	})
	ts.Check(err)
	bustest.Run(w, n.Run)
	here := client.NewNode(ts.Getenv("SENNIT_NODE_SOCKET"))
	repeat(ts, "start a node", func(ctx context.Context) error {
		_, err := here.Status(ctx)
		return err
	})
}

// freePort writes a port that is free now for FREEPORT in the files of services.d.
func (w *world) freePort(ts *testscript.TestScript) {
	free, err := launch.FreePorts(1)
	ts.Check(err)
	files, err := filepath.Glob(ts.MkAbs("services.d/*"))
	ts.Check(err)
	for _, file := range files {
		ts.Check(os.WriteFile(file, []byte(strings.ReplaceAll(ts.ReadFile(file), "FREEPORT", strconv.Itoa(free[0]))), 0o600))
	}
}

// somebody applies a file as another field manager.
func (w *world) somebody(ts *testscript.TestScript, args []string) {
	req, err := http.NewRequestWithContext(w.Context(), http.MethodPatch,
		"http://controller/api/v1/namespaces/default/services/"+args[0]+"?fieldManager=somebody", strings.NewReader(ts.ReadFile(args[1])))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/apply-patch+yaml")
	res, err := overSocket(ts.Getenv("SENNIT_SOCKET")).RoundTrip(req)
	ts.Check(err)
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		ts.Fatalf("apply as somebody: %s", res.Status)
	}
}

func overSocket(path string) *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
}

// parts writes what a kubeconfig holds to files.
func (w *world) parts(ts *testscript.TestScript, args []string) {
	var k struct {
		Clusters []struct {
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
		Users []struct{ User struct{ Token string } }
	}
	ts.Check(yaml.Unmarshal([]byte(ts.ReadFile(args[0])), &k))
	ts.Setenv("URL", k.Clusters[0].Cluster.Server)
	other := httptest.NewTLSServer(nil)
	defer other.Close()
	for name, data := range map[string][]byte{
		"token": []byte(k.Users[0].User.Token + "\n"), "ca.pem": k.Clusters[0].Cluster.CA,
		"other.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw}),
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), data, 0o600))
	}
}

func usage(_ *world, ts *testscript.TestScript, args []string) {
	var exit *exec.ExitError
	if err := ts.Exec(args[0], args[1:]...); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		ts.Fatalf("%v: %v", args, err)
	}
}

func mode(_ *world, ts *testscript.TestScript, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("the mode of %s is %s", args[1], got)
	}
}

// processes are the ids of those whose folder for temporary files is this world's.
func (w *world) processes(ts *testscript.TestScript) (ids []string) {
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	ts.Check(err)
	for _, file := range all {
		env, _ := os.ReadFile(file) // it may have ended meanwhile, or be somebody else's
		if strings.Contains("\x00"+string(env), "\x00TMPDIR="+w.run+"\x00") {
			ids = append(ids, filepath.Base(filepath.Dir(file)))
		}
	}
	return ids
}

// running wants several processes of what the script started.
func (w *world) running(ts *testscript.TestScript, _ []string) {
	if n := len(w.processes(ts)); n < 10 { // the demo, a controller, three nodes, seven of the shop
		ts.Fatalf("%d processes run", n)
	}
}

// ended wants none, and no file of theirs.
func (w *world) ended(ts *testscript.TestScript, _ []string) {
	if ids := w.processes(ts); len(ids) > 0 {
		ts.Fatalf("processes %v still run", ids)
	}
	left, err := os.ReadDir(w.run)
	ts.Check(err)
	if len(left) > 0 {
		ts.Fatalf("left behind: %v", left)
	}
}

func eventually(_ *world, ts *testscript.TestScript, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	repeat(ts, args[0], func(context.Context) error {
		out := ""
		if len(args) > 2 {
			if err := ts.Exec(args[1], args[2:]...); err != nil {
				return err
			}
			out = ts.ReadFile("stdout")
		} else if data, err := os.ReadFile(ts.MkAbs(args[1])); err == nil {
			out = string(data)
		}
		if !pattern.MatchString(out) {
			return fmt.Errorf("not in %q", out)
		}
		return nil
	})
}
