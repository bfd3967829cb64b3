package node

import (
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func TestOriginations(t *testing.T) {
	orders := exchange.ServiceName{Namespace: "shop", Name: "orders"}
	o := &originations{}
	by := func(kind exchange.Kind, called string, port uint16) (*origination.Settings, bool) {
		return o.find(orders, kind, &exchange.Target{Called: called, Port: port})
	}
	if s, known := by(exchange.HTTP, "", 80); s != nil || !known {
		t.Error("before anything is said a call is not in the clear")
	}
	if _, known := by(exchange.HTTP, "shop/secure:443", 8443); known {
		t.Error("before anything is said a call is in the clear that must not be")
	}
	ports := []*snapshot.SecuredPort{
		{Called: "shop/orders:443", Targets: []uint32{8443}, Tls: &snapshot.Origination{Origin: "shop/own", ServerName: "orders.test", HostRoots: true}},
		{Called: "shop/orders:444", Targets: []uint32{8443}, Tls: &snapshot.Origination{Origin: "shop/other", ServerName: "orders.test", HostRoots: true}},
		{Called: "shop/all:443", Tls: &snapshot.Origination{Origin: "shop/all", ServerName: "all.test", HostRoots: true}},
	}
	if err := o.set(orders, ports); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		kind   exchange.Kind
		called string
		port   uint16
		want   string // the policy; empty: in the clear
		known  bool
	}{
		{"by another Service", exchange.HTTP, "shop/all:443", 8443, "shop/all", true},
		{"by its own name", exchange.HTTP, "shop/orders:444", 8443, "shop/other", true},
		{"bytes", exchange.TCP, "shop/all:443", 8443, "shop/all", true},
		{"by a caller whose node says nothing", exchange.HTTP, "", 8443, "shop/own", true},
		{"another port by a caller whose node says nothing", exchange.HTTP, "", 80, "", true},
		{"bytes of a caller's own", exchange.TCP, "", 8443, "", true},
		{"by a name that is not known here", exchange.HTTP, "shop/all:444", 8443, "", false},
		{"bytes by a name that is not known here", exchange.TCP, "shop/new:443", 8443, "", false},
	} {
		got, known := by(tt.kind, tt.called, tt.port)
		origin := ""
		if got != nil {
			origin = got.Origin
		}
		if origin != tt.want || known != tt.known {
			t.Errorf("%s: %q %v, want %q %v", tt.name, origin, known, tt.want, tt.known)
		}
	}

	before, _ := by(exchange.HTTP, "shop/all:443", 8443)
	changed := &snapshot.SecuredPort{Called: "shop/orders:443", Tls: &snapshot.Origination{ServerName: "new.test", HostRoots: true}}
	if err := o.set(orders, []*snapshot.SecuredPort{changed, ports[2]}); err != nil {
		t.Fatal(err)
	}
	if now, _ := by(exchange.HTTP, "shop/all:443", 8443); now != before {
		t.Error("what did not change has lost its connections")
	}
	if err := o.set(orders, []*snapshot.SecuredPort{{Called: "shop/orders:443", Tls: &snapshot.Origination{}}}); err == nil {
		t.Error("settings that nobody can use are taken")
	}
	if now, known := by(exchange.HTTP, "shop/all:443", 8443); now != before || !known {
		t.Error("settings that nobody can use took the place of those that were in force")
	}
	o.drop(snapshot.InSubject("shop", "orders"))
	if _, known := by(exchange.HTTP, "shop/all:443", 8443); known {
		t.Error("what is not followed is still known")
	}
}
