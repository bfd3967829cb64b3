// Package vm holds what installs Sennit on hosts with systemd; its tests hold the units, the installer and the daemons'
// defaults together. That the daemons run under the units' restrictions is shown by test/hosts, which starts systemd.
package vm

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/controller"
	"github.com/sennit-mesh/sennit/pkg/node"
)

// unit reads the last value of each key of a unit's sections; a key that is repeated adds to a list of systemd's.
func unit(t *testing.T, file string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == '[' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("%s: %q is no setting", file, line)
		}
		values[key] = value
	}
	return values
}

// daemons are the units, and the flags that each daemon declares.
var daemons = map[string]func(*flag.FlagSet){
	"node":       new(node.Config).Flags,
	"controller": new(controller.Config).Flags,
}

// TestUnitsStartTheDaemons parses the command lines as the daemons do: an unknown flag is an error.
func TestUnitsStartTheDaemons(t *testing.T) {
	for name, declare := range daemons {
		u := unit(t, "sennit-"+name+".service")
		argv := strings.Fields(u["ExecStart"])
		if len(argv) < 3 || argv[0] != "/usr/local/bin/sennit" || argv[1] != name {
			t.Fatalf("%s: ExecStart is %q", name, u["ExecStart"])
		}
		last := len(argv) - 1
		if want := "$SENNIT_" + strings.ToUpper(name) + "_FLAGS"; argv[last] != want {
			t.Errorf("%s: ExecStart ends with %q, want %q", name, argv[last], want)
		}
		flags := flag.NewFlagSet(name, flag.ContinueOnError)
		declare(flags)
		if err := flags.Parse(argv[2:last]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if flags.NArg() > 0 {
			t.Errorf("%s: %q are no flags", name, flags.Args())
		}
		if got, want := flags.Lookup("state-dir").Value.String(), "/var/lib/"+u["StateDirectory"]; got != want {
			t.Errorf("%s: --state-dir is %s, and StateDirectory= is %s", name, got, want)
		}
		if socket := flags.Lookup("socket").Value.String(); filepath.Dir(socket) != u["ReadWritePaths"] {
			t.Errorf("%s: the socket %s is not in ReadWritePaths=%s", name, socket, u["ReadWritePaths"])
		}
		if f := flags.Lookup("workload-socket"); f != nil && filepath.Dir(f.Value.String()) != u["ReadWritePaths"] {
			t.Errorf("%s: the socket %s is not in ReadWritePaths=%s", name, f.Value, u["ReadWritePaths"])
		}
		if os.Getuid() == 0 { // the defaults of other users are folders of their own
			flags.Visit(func(f *flag.Flag) {
				if f.Name == "workload-socket" { // no command looks at it: a host has one, and a user's nodes have none
					return
				}
				if f.Value.String() != f.DefValue {
					t.Errorf("%s: --%s is %s, and commands look at the default %s", name, f.Name, f.Value, f.DefValue)
				}
			})
		}
	}
}

func TestUnitsLeaveTimeToDrain(t *testing.T) {
	flags := flag.NewFlagSet("node", flag.ContinueOnError)
	daemons["node"](flags)
	drain, err := time.ParseDuration(flags.Lookup("drain-time").DefValue)
	if err != nil {
		t.Fatal(err)
	}
	u := unit(t, "sennit-node.service")
	stop, err := time.ParseDuration(u["TimeoutStopSec"] + "s")
	if err != nil || stop < drain+5*time.Second {
		t.Errorf("TimeoutStopSec=%s leaves no 5 s behind --drain-time %s (%v)", u["TimeoutStopSec"], drain, err)
	}
	if u["KillSignal"] != "SIGTERM" || !strings.Contains(u["ExecReload"], "-HUP") {
		t.Errorf("the node drains at SIGTERM and reads services.d at SIGHUP; the unit sends %q and %q", u["KillSignal"], u["ExecReload"])
	}
}

// socketBuffer is pkg/transport's, in bytes.
const socketBuffer = "7340032"

// TestSysctlsAreWhatNodesWant keeps a node from complaining on a host where everything was installed.
func TestSysctlsAreWhatNodesWant(t *testing.T) {
	data, err := os.ReadFile("sennit.sysctl.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"net.core.rmem_max", "net.core.wmem_max"} {
		if line := key + " = " + socketBuffer + "\n"; !strings.Contains(string(data), line) {
			t.Errorf("sennit.sysctl.conf has no line %q", line)
		}
	}
	node, err := os.ReadFile("../../pkg/transport/socket.go")
	if err != nil || !strings.Contains(string(node), "const socketBuffer = 7 << 20\n") {
		t.Errorf("nodes ask for buffers of another size: write it here and into sennit.sysctl.conf (%v)", err)
	}
}

// TestUnitsAreHardened has systemd judge the units, where its program is installed.
func TestUnitsAreHardened(t *testing.T) {
	for name := range daemons {
		file := "sennit-" + name + ".service"
		u := unit(t, file)
		for key, want := range map[string]string{"NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": "", "User": "sennit-" + name} {
			if got, ok := u[key]; !ok || got != want {
				t.Errorf("%s: %s=%s, want %q", file, key, got, want)
			}
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("needs systemd-analyze: systemd has not judged the units")
	}
	for name := range daemons {
		data, err := os.ReadFile("sennit-" + name + ".service")
		if err != nil {
			t.Fatal(err)
		}
		// The program is not installed here: another stands for it, or systemd complains of that.
		file := filepath.Join(t.TempDir(), "sennit-"+name+".service")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(data), "/usr/local/bin/sennit", "/bin/sh")), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", file).CombinedOutput(); err != nil || strings.Contains(string(out), file) {
			t.Errorf("verify %s: %v\n%s", name, err, out)
		}
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--threshold=20", file).CombinedOutput(); err != nil {
			t.Errorf("security %s: %v\n%s", name, err, out)
		}
	}
}
