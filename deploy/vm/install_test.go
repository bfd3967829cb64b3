package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// folder is what an operator copies to a host: the files of this folder, and a program.
func folder(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if file := entry.Name(); file != "sennit" && filepath.Ext(file) != ".go" {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, file), string(data))
		}
	}
	if program != "" {
		write(t, filepath.Join(dir, "sennit"), program)
	}
	return dir
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func install(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", append([]string{filepath.Join(dir, "install.sh")}, args...)...).CombinedOutput()
	return string(out), err
}

// image is the root of a system with systemd.
func image(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

var installed = []string{
	"usr/local/bin/sennit", "etc/systemd/system/sennit-node.service", "etc/systemd/system/sennit-controller.service",
	"etc/sysusers.d/sennit.conf", "etc/tmpfiles.d/sennit.conf", "etc/sysctl.d/10-sennit.conf",
}

func TestInstallUpgradeUninstall(t *testing.T) {
	root := image(t)
	if out, err := install(t, folder(t, "one"), "--root", root); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, file := range installed {
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			t.Error(err)
		}
	}
	settings := filepath.Join(root, "etc/sennit/node.env")
	info, err := os.Stat(settings)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("node.env holds a secret, and its mode is not 0600: %v, %v", info, err)
	}
	write(t, settings, "SENNIT_NODE_FLAGS=--drain-time=5s\n")

	if out, err := install(t, folder(t, "two"), "--root", root); err != nil {
		t.Fatalf("again: %v\n%s", err, out)
	}
	for file, want := range map[string]string{"usr/local/bin/sennit": "two", "etc/sennit/node.env": "SENNIT_NODE_FLAGS=--drain-time=5s\n"} {
		if got, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(got) != want {
			t.Errorf("after the second time %s holds %q (%v), want %q", file, got, err, want)
		}
	}

	for range 2 { // the second finds nothing, and says the same
		if out, err := install(t, folder(t, ""), "--uninstall", "--root", root); err != nil || !strings.Contains(out, "What stays") {
			t.Fatalf("uninstall: %v\n%s", err, out)
		}
	}
	for _, file := range installed {
		if _, err := os.Stat(filepath.Join(root, file)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", file, err)
		}
	}
	if _, err := os.Stat(settings); err != nil {
		t.Errorf("settings are kept: %v", err)
	}
}

func TestShellcheck(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("needs shellcheck: nobody has read install.sh")
	}
	if out, err := exec.CommandContext(t.Context(), "shellcheck", "install.sh").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestInstallRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, program string
		args          []string
		want          string
	}{
		{"no program beside it", "", []string{"--root", image(t)}, "there is no sennit beside this script"},
		{"no systemd below the root", "one", []string{"--root", t.TempDir()}, "this is no system with systemd"},
		{"no folder", "one", []string{"--root"}, "--root needs a folder"},
		{"this host as a root", "one", []string{"--root", "/"}, "leave --root away"},
		{"an unknown word", "one", []string{"--now"}, "there is nothing called --now"},
	} {
		if out, err := install(t, folder(t, tt.program), tt.args...); err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v, %q; want %q", tt.name, err, out, tt.want)
		}
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return // it would install on this machine
	}
	want := "systemd does not run here"
	if os.Getuid() != 0 {
		want = "this needs root"
	}
	if out, err := install(t, folder(t, "one")); err == nil || !strings.Contains(out, want) {
		t.Errorf("on this host: %v, %q; want %q", err, out, want)
	}
}

// TestInstallAgreesWithUnits compares what the script makes with what units and users' files name.
func TestInstallAgreesWithUnits(t *testing.T) {
	root := image(t)
	if out, err := install(t, folder(t, "one"), "--root", root); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	users, err := os.ReadFile("sennit.sysusers.conf")
	if err != nil {
		t.Fatal(err)
	}
	folders, err := os.ReadFile("sennit.tmpfiles.conf")
	if err != nil {
		t.Fatal(err)
	}
	for name := range daemons {
		u := unit(t, "sennit-"+name+".service")
		argv := strings.Fields(u["ExecStart"])
		paths := []string{argv[0], strings.TrimPrefix(u["EnvironmentFile"], "-")}
		for i, word := range argv {
			if word == "--services-dir" {
				paths = append(paths, argv[i+1])
			}
		}
		for _, path := range paths {
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("sennit-%s.service names what install.sh does not make: %v", name, err)
			}
		}
		if !strings.Contains(string(users), "\nu "+u["User"]+" ") || !strings.Contains(string(users), "\ng "+u["Group"]+" ") {
			t.Errorf("sennit.sysusers.conf does not make %s of %s", u["User"], u["Group"])
		}
		if !strings.Contains(string(folders), "\nd "+u["ReadWritePaths"]+" 1775 root "+u["Group"]+" ") {
			t.Errorf("sennit.tmpfiles.conf does not make %s for %s", u["ReadWritePaths"], u["Group"])
		}
	}
}
