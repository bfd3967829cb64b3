package hosts

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestMain is the tests, or the service that they call, started again on a host.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "service" {
		fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[2], service())) //nolint:gosec // ends with its host
		os.Exit(1)
	}
	if len(os.Args) == 2 && os.Args[1] == "svid" {
		os.Exit(svid())
	}
	os.Exit(m.Run())
}

// service answers /hold when /release was asked for, and says at /held how many wait.
func service() http.Handler {
	var held atomic.Int32
	release := make(chan struct{}, 16)
	mux := http.NewServeMux()
	mux.HandleFunc("/hold", func(w http.ResponseWriter, _ *http.Request) {
		held.Add(1)
		<-release
		io.WriteString(w, "finished")
	})
	mux.HandleFunc("/held", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, held.Load()) })
	mux.HandleFunc("/release", func(http.ResponseWriter, *http.Request) { release <- struct{}{} })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })
	return mux
}

// build returns the program as a release of that version.
func build(t *testing.T, version string) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the program, and starts a host")
	}
	requirements(t) // what is skipped is not built for
	program := filepath.Join(t.TempDir(), "sennit")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X github.com/sennit-mesh/sennit/internal/release.version="+version, "-o", program, "../../cmd/sennit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build sennit: %v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// carry puts the installer and a program into the operator's home; no program: none lies beside it.
func (h *Host) carry(t *testing.T, program []byte) {
	t.Helper()
	to := h.Path("/home/operator/install")
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS("../../deploy/vm")); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(to, "sennit")) // of whoever built one there
	if program != nil {
		h.put(t, "/home/operator/install/sennit", program)
	}
}

func (h *Host) put(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(h.Path(file), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.Path(file), 0o755); err != nil {
		t.Fatal(err)
	}
}

// must types a line as root.
func (h *Host) must(t *testing.T, line string) string {
	t.Helper()
	out, err := h.Shell(t.Context(), 0, line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", h.Name, line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// says types a line as root until it prints what is wanted.
func (h *Host) says(t *testing.T, line, want string) {
	t.Helper()
	var out []byte
	if !wait(t, fmt.Sprintf("%s to print %q", line, want), func() bool {
		out, _ = h.Shell(t.Context(), 0, line).CombinedOutput() // what it prints is looked at
		return strings.Contains(string(out), want)
	}) {
		t.Fatalf("it printed:\n%s", out)
	}
}

// everything lists what there is of Sennit on a host, but for what lies in the folders of its settings and its state.
const everything = "find /etc /usr /var /run /opt -iname '*sennit*' -not -path '/etc/sennit/*' -not -path '/var/lib/sennit/*' | sort"

// TestInstallerRefuses asks on a real host for what cannot be, and looks whether anything was changed.
func TestInstallerRefuses(t *testing.T) {
	program := build(t, "v0.0.1")
	foreign := bytes.Clone(program)
	foreign[18], foreign[19] = 0x15, 0 // e_machine: 64-bit PowerPC
	h := Start(t, "host1")[0]
	before := h.must(t, everything)
	for _, tt := range []struct {
		name    string
		program []byte
		uid     int
		want    string
	}{
		{"not root", program, Operator, "this needs root"},
		{"a program for other machines", foreign, 0, "does not run on this host (Linux "},
		{"what is no program", []byte("sennit"), 0, "does not run on this host (Linux "},
		{"no program", nil, 0, "there is no sennit beside this script"},
	} {
		h.carry(t, tt.program)
		out, err := h.Shell(t.Context(), tt.uid, "sh install/install.sh").CombinedOutput()
		if err == nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: %v, %q; want %q", tt.name, err, out, tt.want)
		}
		if after := h.must(t, everything); after != before {
			t.Errorf("%s: it refuses, and leaves\n%s", tt.name, after)
		}
	}
}

// A machine is one host with a controller, a node, and a service that the node's listener leads to.
func machine(t *testing.T, program []byte) *Host {
	t.Helper()
	h := Start(t, "host1")[0]
	h.carry(t, program)
	h.must(t, "sh install/install.sh && systemctl start sennit-controller")
	h.says(t, "sennit status", "no node has joined")
	h.must(t, `echo "SENNIT_JOIN_TOKEN=$(sennit join-token create --node host1 --service default/held)" >>/etc/sennit/node.env`)
	h.put(t, "/etc/sennit/services.d/held.yaml", []byte(`service: default/held
ports: [{port: 80, name: http, protocol: http, address: "127.0.0.1:8081"}]
health: {http: {port: http}}
listeners: [{as: default/held, to: "default/held:80", address: "127.0.0.1:15001", uid: 1000}]
`))
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	h.put(t, "/usr/local/sbin/held", self)
	h.must(t, "systemd-run --unit held held service 127.0.0.1:8081 && systemctl start sennit-node")
	h.says(t, "sennit status --local", "listening")
	h.says(t, "sennit status --local", "healthy")
	h.says(t, h.call("/"), "here")
	h.must(t, "sed -i /TOKEN/d /etc/sennit/node.env") // whoever needs it again has lost its state
	return h
}

// call is the line by which the operator calls the service through the node.
func (h *Host) call(path string) string {
	return fmt.Sprintf("setpriv --reuid %d --clear-groups curl -sS http://127.0.0.1:15001%s", Operator, path)
}

// TestUpgrade installs over what runs: a request that is under way is finished by the old program, and the new one
// goes on with the old one's state. Then Sennit goes, and comes again.
func TestUpgrade(t *testing.T) {
	one, two := build(t, "v0.0.1"), build(t, "v0.0.2")
	h := machine(t, one)
	settings := "find /etc/sennit -type f -exec sha256sum {} + | sort"
	before := h.must(t, settings)

	var held bytes.Buffer
	request := h.Shell(t.Context(), 0, h.call("/hold"))
	request.Stdout, request.Stderr = &held, &held
	if err := request.Start(); err != nil {
		t.Fatal(err)
	}
	h.says(t, "curl -s http://127.0.0.1:8081/held", "1")

	h.carry(t, two)
	h.must(t, "sh install/install.sh && sh install/install.sh") // twice is once
	h.says(t, "sennit status", "v0.0.1")                        // nothing was restarted
	h.must(t, "systemctl restart --no-block sennit-node")
	h.says(t, "systemctl show -p ActiveState sennit-node", "deactivating")
	h.must(t, "curl -s http://127.0.0.1:8081/release")
	if err := request.Wait(); err != nil || held.String() != "finished" {
		t.Fatalf("the request that was under way: %v, %q", err, held.String())
	}
	h.must(t, "systemctl restart sennit-controller")
	h.says(t, "sennit status | grep alive", "v0.0.2")
	h.says(t, h.call("/"), "here")
	if after := h.must(t, settings); after != before {
		t.Errorf("settings were\n%s\nand are\n%s", before, after)
	}

	h.must(t, "systemctl enable sennit-node sennit-controller && sh install/install.sh --uninstall")
	if left := h.must(t, everything+"; pgrep -x sennit || true"); left != "/etc/sennit\n/var/lib/sennit" {
		t.Errorf("after --uninstall there is\n%s", left)
	}
	h.must(t, "sh install/install.sh && systemctl start sennit-controller sennit-node")
	h.says(t, h.call("/"), "here") // with the identity that it had: there is no token
}

// TestHardening looks at the running daemons: what systemd was told to hold back is held back, and a listener below
// port 1024 works with the drop-in of the documentation.
func TestHardening(t *testing.T) {
	h := machine(t, build(t, "v0.0.1"))
	h.must(t, "touch /tmp/of-the-host && mkdir -m 1777 /srv/open")
	for _, daemon := range []string{"node", "controller"} {
		status := h.must(t, fmt.Sprintf("cat /proc/$(systemctl show -p MainPID --value sennit-%s)/status", daemon))
		for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000"} {
			if !strings.Contains(status, want) {
				t.Errorf("%s: no %q in\n%s", daemon, want, status)
			}
		}
		// Where the daemon is, and as its user.
		in := fmt.Sprintf("nsenter -t $(systemctl show -p MainPID --value sennit-%[1]s) --mount -- setpriv --reuid sennit-%[1]s --regid sennit --clear-groups sh -c ", daemon)
		for _, forbidden := range []string{
			"touch /srv/open/x", "ls /home/operator", "ls /tmp/of-the-host", "cat /proc/1/status", "cat /etc/sennit/node.env",
			"rm -f /run/sennit/" + map[string]string{"node": "controller", "controller": "node"}[daemon] + ".sock",
			"ls /var/lib/sennit/" + map[string]string{"node": "controller", "controller": "node"}[daemon],
		} {
			if out, err := h.Shell(t.Context(), 0, in+"'"+forbidden+"'").CombinedOutput(); err == nil {
				t.Errorf("the %s may %s: %s", daemon, forbidden, out)
			}
		}
		h.must(t, in+"'touch /var/lib/sennit/"+daemon+"/x /run/sennit/"+daemon+".x'")
	}

	h.put(t, "/etc/sennit/services.d/low.yaml", []byte(`service: default/held
instance: low
listeners: [{as: default/held, to: "default/held:80", address: "127.0.0.1:80", uid: 1000}]
`))
	h.must(t, "systemctl reload sennit-node")
	h.says(t, "sennit status --local", "permission denied")
	drop := h.Path("/etc/systemd/system/sennit-node.service.d")
	if err := os.Mkdir(drop, 0o755); err != nil {
		t.Fatal(err)
	}
	h.put(t, "/etc/systemd/system/sennit-node.service.d/low.conf", []byte("[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n"))
	h.must(t, "systemctl daemon-reload && systemctl restart sennit-node")
	h.says(t, strings.Replace(h.call("/"), ":15001", "", 1), "here")
}
