package registry

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

var orders = exchange.ServiceName{Namespace: "default", Name: "orders"}

// declared is a document of one instance of orders.
func declared(instance, address string) string {
	return "service: orders\ninstance: " + instance + "\nports: [{port: 80, address: '" + address + "'}]\n"
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (l *Local) names() string {
	var out []string
	for _, in := range l.Instances() {
		out = append(out, in.Name)
	}
	return strings.Join(out, " ")
}

func TestABadFileChangesNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", declared("a", "127.0.0.1:1"))
	write(t, dir, "b.yaml", declared("b", "127.0.0.1:2"))
	write(t, dir, ".hidden.yaml", "what")
	write(t, dir, "readme.txt", "what")
	l := newLocal(t, LocalConfig{Dir: dir})
	if l.names() != "a b" || len(l.Problems()) != 0 {
		t.Fatalf("%q, %v", l.names(), l.Problems())
	}
	write(t, dir, "a.yaml", declared("a", "127.0.0.1:1")+"colour: red\n")
	write(t, dir, "b.yaml", declared("b2", "127.0.0.1:2"))
	err := l.Reload()
	if err == nil || !strings.Contains(err.Error(), "a.yaml:4: colour: unknown field") {
		t.Errorf("reload said %v", err)
	}
	if l.names() != "a b2" {
		t.Errorf("%q: a's last good version and b's new one shall be in force", l.names())
	}
	if p := l.Problems(); len(p) != 1 || !strings.HasSuffix(p[0].File, "a.yaml") {
		t.Errorf("problems %v", p)
	}
	write(t, dir, "a.yaml", declared("a3", "127.0.0.1:1"))
	if err := l.Reload(); err != nil || l.names() != "a3 b2" {
		t.Errorf("%v, %q", err, l.names())
	}
	os.Remove(filepath.Join(dir, "a.yaml"))
	if err := l.Reload(); err != nil || l.names() != "b2" {
		t.Errorf("%v, %q", err, l.names())
	}
}

func TestOneNameIsHeldByOneFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.yaml", declared("x", "127.0.0.1:2"))
	l := newLocal(t, LocalConfig{Dir: dir})
	write(t, dir, "a.yaml", declared("x", "127.0.0.1:1"))
	if err := l.Reload(); err == nil || !strings.Contains(err.Error(), "a.yaml:1: instance: default/orders/x is declared already (") {
		t.Errorf("%v", err)
	}
	if at, _ := l.Lookup(orders, exchange.Target{Instance: "x", Port: 80}); at.Address.Port() != 2 {
		t.Error("the file that held the name lost it")
	}
	write(t, dir, "b.yaml", declared("y", "127.0.0.1:2")) // gives the name up
	if err := l.Reload(); err != nil {
		t.Error(err)
	}
	if at, _ := l.Lookup(orders, exchange.Target{Instance: "x", Port: 80}); at.Address.Port() != 1 || l.names() != "x y" {
		t.Errorf("x is at %s, names %q", at.Address, l.names())
	}
	// Two files that swap what they declare hold it one after the other.
	write(t, dir, "a.yaml", "# nothing\n")
	write(t, dir, "b.yaml", declared("x", "127.0.0.1:3"))
	if err := l.Reload(); err != nil || l.names() != "x" {
		t.Errorf("%v, %q", err, l.names())
	}
	if _, err := l.Set("cli", []byte(declared("x", "127.0.0.1:4"))); err == nil || !strings.Contains(err.Error(), "b.yaml:1") {
		t.Errorf("registered over a file: %v", err)
	}
}

func TestADirectoryThatCannotBeReadChangesNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", declared("a", "127.0.0.1:1"))
	l := newLocal(t, LocalConfig{Dir: dir})
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Dir(dir), filepath.Base(dir), "a file in its place")
	if err := l.Reload(); err == nil || l.names() != "a" {
		t.Errorf("%v, %q", err, l.names())
	}
}

func TestFilesAreFollowed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "etc", "services.d") // appears later
	changed := make(chan struct{}, 100)
	l := newLocal(t, LocalConfig{Dir: dir, Changed: func() { changed <- struct{}{} }})
	runLocal(t, l)
	await := func(want string) {
		t.Helper()
		for l.names() != want {
			<-changed // the test's own time limit ends a wait for ever
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "a.yaml", declared("a", "127.0.0.1:1"))
	await("a")
	write(t, dir, "a.yaml.tmp", declared("a2", "127.0.0.1:1")) // as editors replace a file
	if err := os.Rename(filepath.Join(dir, "a.yaml.tmp"), filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	await("a2")
	write(t, dir, "b.yaml", declared("b", "127.0.0.1:2"))
	await("a2 b")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	await("")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "c.yaml", declared("c", "127.0.0.1:3"))
	await("c")
}

// memory is a Store.
type memory struct {
	kept map[string][]byte
	err  error
}

func (m *memory) Load() (map[string][]byte, error) { return m.kept, m.err }
func (m *memory) Save(key string, document []byte) error {
	if m.err == nil {
		m.kept[key] = document
	}
	return m.err
}
func (m *memory) Delete(key string) error {
	if m.err == nil {
		delete(m.kept, key)
	}
	return m.err
}

func TestRegistrationsAtRunTimeAreKept(t *testing.T) {
	store := &memory{kept: map[string][]byte{}}
	l := newLocal(t, LocalConfig{Store: store})
	for _, address := range []string{"127.0.0.1:1", "127.0.0.1:2"} { // the second replaces the first
		if _, err := l.Set("cli", []byte(declared("a", address))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Set("cli", []byte("service: orders\n")); err == nil {
		t.Error("a document with a mistake was registered")
	}
	again := newLocal(t, LocalConfig{Store: store})
	if at, ok := again.Lookup(orders, exchange.Target{Instance: "a", Port: 80}); !ok || at.Address.Port() != 2 || again.Instances()[0].Origin != AtRunTime {
		t.Errorf("after a restart: %s, %v", at.Address, ok)
	}
	store.err = errDown
	if _, err := again.Set("cli", []byte(declared("b", "127.0.0.1:3"))); !errors.Is(err, errDown) || again.names() != "a" {
		t.Errorf("what could not be kept: %v, %q", err, again.names())
	}
	if err := again.Remove(Key{orders, "a"}); !errors.Is(err, errDown) || again.names() != "a" {
		t.Errorf("what could not be forgotten: %v, %q", err, again.names())
	}
	store.err = nil
	if err := again.Remove(Key{orders, "a"}); err != nil || again.names() != "" || len(store.kept) != 0 {
		t.Errorf("%v, %q, %v", err, again.names(), store.kept)
	}
	if err := again.Remove(Key{orders, "a"}); !errors.Is(err, ErrNotRegistered) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestLookup(t *testing.T) {
	l := newLocal(t, LocalConfig{})
	for name, port := range map[string]string{"a": "1", "b": "2"} {
		if _, err := l.Set("cli", []byte(declared(name, "127.0.0.1:"+port)+"health: {tcp: {port: 80}}\n")); err != nil {
			t.Fatal(err)
		}
	}
	l.observe(t.Context(), Key{orders, "a"}, &Check{}, errDown)
	l.observe(t.Context(), Key{orders, "b"}, &Check{}, nil)
	for _, tt := range []struct {
		name, instance string
		port, want     uint16 // want 0: nothing
	}{
		{"by its name", "a", 80, 1},
		{"any is a healthy one", "", 80, 2},
		{"unknown instance", "c", 80, 0},
		{"unknown port", "a", 81, 0},
	} {
		if at, ok := l.Lookup(orders, exchange.Target{Instance: tt.instance, Port: tt.port}); at.Address.Port() != tt.want || ok != (tt.want != 0) {
			t.Errorf("%s: %s, %v; want port %d", tt.name, at.Address, ok, tt.want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { l.Lookup(orders, exchange.Target{Instance: "a", Port: 80}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// What is no longer declared is still reached by the calls of those who have not heard of it.
	l.Remove(Key{orders, "b"})
	if at, ok := l.Lookup(orders, exchange.Target{Instance: "b", Port: 80}); !ok || at.Address != netip.MustParseAddrPort("127.0.0.1:2") {
		t.Errorf("right after its removal: %s, %v", at.Address, ok)
	}
	if at, _ := l.Lookup(orders, exchange.Target{Instance: "", Port: 80}); at.Address.Port() != 1 {
		t.Errorf("any is %s, want the one that stays", at.Address)
	}
	l.forgetLeft(l.leaving[Key{orders, "b"}].until.Add(1))
	if _, ok := l.Lookup(orders, exchange.Target{Instance: "b", Port: 80}); ok {
		t.Error("reached for ever")
	}
}

func BenchmarkLookup(b *testing.B) {
	l, err := NewLocal(LocalConfig{Node: "web1"})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := l.Set("cli", []byte(declared("a", "127.0.0.1:1"))); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.Lookup(orders, exchange.Target{Instance: "a", Port: 80})
	}
}

func TestOneProcessIsOneService(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.yaml", "service: orders\nworkload: {unit: a.service}\n---\nservice: orders\ninstance: two\nworkload: {unit: a.service}\n")
	l := newLocal(t, LocalConfig{Dir: dir})
	write(t, dir, "a.yaml", "service: payments\nworkload: {unit: a.service}\n")
	if err := l.Reload(); err == nil || !strings.Contains(err.Error(), "a.yaml:1: workload: unit a.service is default/orders already (") {
		t.Errorf("%v", err)
	}
	if len(l.Instances()) != 2 {
		t.Errorf("%v", l.Instances())
	}
}
