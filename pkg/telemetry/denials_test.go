package telemetry

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"
)

func TestDenialsAreCountedAlike(t *testing.T) {
	var d Denials
	began := time.Unix(1000, 0)
	one := Denial{Service: "shop/orders", Caller: "shop/cart", Method: "GET", Path: "/a?token=secret", Policy: "shop/p", DryRun: true}
	d.Add(one, 2, began)
	one.Path = "/a?other"
	d.Add(one, 1, began.Add(time.Second))
	other := one
	other.DryRun = false
	d.Add(other, 1, began.Add(2*time.Second))
	all := d.List()
	if len(all) != 2 || all[0].DryRun || all[1].Count != 3 || all[1].Path != "/a" || !all[1].First.Equal(began) || !all[1].Last.Equal(began.Add(time.Second)) {
		t.Errorf("%+v", all)
	}
}

// TestDenialsAreBounded has a caller that asks for another path each time, many callers, and control characters.
func TestDenialsAreBounded(t *testing.T) {
	var d Denials
	now := time.Unix(1000, 0)
	for i := range 1000 {
		d.Add(Denial{Service: "a/b", Caller: "c/d", Method: "GET", Path: fmt.Sprint("/", i), Policy: "p"}, 1, now)
	}
	all := d.List()
	if len(all) != maxDenialPaths+1 {
		t.Errorf("%d paths of one caller", len(all))
	}
	var others uint64
	for _, s := range all {
		if s.Path == OtherPaths {
			others = s.Count
		}
	}
	if others != 1000-maxDenialPaths {
		t.Errorf("%d of other paths", others)
	}
	for i := range 3 * maxDenials {
		now = now.Add(time.Millisecond)
		d.Add(Denial{Service: "a/b", Caller: fmt.Sprint("c/", i)}, 1, now)
	}
	if all = d.List(); len(all) != maxDenials || all[0].Caller != fmt.Sprint("c/", 3*maxDenials-1) || len(d.paths) != maxDenials {
		t.Errorf("%d are kept, %d groups; the newest is of %s", len(all), len(d.paths), all[0].Caller)
	}
	d.Add(Denial{Method: "\x1b[2J", Path: "/" + strings.Repeat("x", 1000)}, 1, now.Add(time.Hour))
	if s := d.List()[0]; s.Method != "?[2J" || len(s.Path) != maxDenialText {
		t.Errorf("%q, a path of %d bytes", s.Method, len(s.Path))
	}
}

func TestDenialsOfNodes(t *testing.T) {
	var node, controller Denials
	now := time.Unix(1000, 0)
	for i := range maxDenialReport + 10 {
		node.Add(Denial{Service: "shop/orders", Caller: fmt.Sprint("c/", i), Policy: "p"}, 2, now)
	}
	node.Add(Denial{Service: "shop/ledger", Caller: "c/x", Policy: "p"}, 1, now)
	runs := func(service string) bool { return service == "shop/orders" }
	for range 3 {
		counts := node.Take()
		if len(counts) > maxDenialReport {
			t.Fatalf("a report of %d", len(counts))
		}
		if err := controller.Report(counts, runs, now); err != nil {
			t.Fatal(err)
		}
	}
	all := controller.List()
	if len(all) != maxDenialReport+10 || all[0].Count != 2 || len(node.List()) != 0 {
		t.Errorf("%d arrived, and %d are left", len(all), len(node.List()))
	}
	for _, counts := range [][]*DenialCount{{{Caller: strings.Repeat("x", maxNameBytes+1)}}, make([]*DenialCount, maxDenialReport+1)} {
		if err := controller.Report(counts, runs, now); !errors.Is(err, ErrReport) {
			t.Errorf("%d: %v", len(counts), err)
		}
	}
}

// TestDenialsAreKeptAsLongAsTheyAreSeen: the one that was not seen for longest makes room, and with it its path.
func TestDenialsAreKeptAsLongAsTheyAreSeen(t *testing.T) {
	if maxDenials != 1024 || maxDenialPaths != 16 || maxDenialReport != 256 || maxDenialText != 128 {
		t.Error("docs/reference/authorization.md says other bounds")
	}
	var d Denials
	now := time.Unix(1000, 0)
	of := func(i int) Denial { return Denial{Service: "a/b", Caller: fmt.Sprint("c/", i), Policy: "p"} }
	for i := range maxDenials {
		d.Add(of(i), 1, now.Add(time.Duration(i)*time.Second))
	}
	now = now.Add(time.Hour)
	d.Add(of(0), 1, now) // it is not the oldest any more
	d.Add(Denial{Service: "a/new"}, 1, now)
	kept := map[string]uint64{}
	for _, s := range d.List() {
		kept[s.Caller] = s.Count
	}
	if kept["c/0"] != 2 || kept["c/1"] != 0 || kept["c/2"] != 1 {
		t.Errorf("of the oldest three %d, %d and %d are kept", kept["c/0"], kept["c/1"], kept["c/2"])
	}

	var paths Denials
	for i := range 3 {
		paths.Add(Denial{Path: fmt.Sprint("/", i)}, 1, now)
	}
	for left := 2; left >= 0; left-- {
		paths.drop()
		if n := paths.paths[Denial{}]; n != left {
			t.Errorf("%d paths are counted, %d are kept", n, left)
		}
	}
}

// TestDenialsArriveWhole: what a node tells of one is what it saw, as far as it is bounded.
func TestDenialsArriveWhole(t *testing.T) {
	now := time.Unix(1000, 0)
	whole := Denial{"shop/orders", "shop/cart", "one", "10.0.0.1", "GET", "/a", "shop/p", true}
	var node, controller Denials
	node.Add(whole, 1, now)
	if err := controller.Report(node.Take(), func(string) bool { return true }, now); err != nil {
		t.Fatal(err)
	}
	if all := controller.List(); len(all) != 1 || all[0].Denial != whole {
		t.Errorf("%+v", all)
	}
	long := strings.Repeat("x", maxNameBytes+1)
	for _, c := range []*DenialCount{{Service: long}, {Caller: long}, {Node: long}, {Source: long}, {Policy: long}} {
		if err := controller.Report([]*DenialCount{c}, func(string) bool { return true }, now); !errors.Is(err, ErrReport) {
			t.Errorf("%.20s…: %v", c, err)
		}
	}
	controller.Add(Denial{Method: strings.Repeat("M", 1000), Path: "/\x7f\u009b\u202e…"}, 1, now.Add(time.Hour))
	if s := controller.List()[0]; len(s.Method) != maxDenialText || s.Path != "/???…" {
		t.Errorf("a method of %d bytes, %q", len(s.Method), s.Path)
	}
	buffer := []byte("/kept")
	var d Denials
	d.Add(Denial{Path: unsafe.String(&buffer[0], len(buffer))}, 1, now)
	copy(buffer, "/used")
	if got := d.List()[0].Path; got != "/kept" {
		t.Errorf("a path that changes to %s with the buffer of its exchange", got)
	}
}
