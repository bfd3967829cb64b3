package node

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var accessed = exchange.ServiceName{Namespace: "shop", Name: "orders"}

func restricting() *snapshot.Inbound {
	return &snapshot.Inbound{Authorization: &snapshot.Authorization{Policies: []*snapshot.AuthorizationPolicy{{Origin: "shop/p"}}}}
}

// TestNobodyIsLetInBeforeItIsKnownWhoMay has a service that has just come to the host.
func TestNobodyIsLetInBeforeItIsKnownWhoMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a access
		if _, known := a.Decide(context.Background(), accessed, &authz.Request{}); known {
			t.Error("decided")
		}
		go func() {
			time.Sleep(time.Second)
			if err := a.set(accessed, restricting()); err != nil {
				t.Error(err)
			}
		}()
		began := time.Now()
		d, known := a.Decide(context.Background(), accessed, &authz.Request{})
		if !known || !d.Denied || time.Since(began) != time.Second {
			t.Errorf("%+v, %t after %v", d, known, time.Since(began))
		}
	})
}

// TestANodeThatIsTooOldLetsNobodyIn has a service whose policies need a newer node: it had none before, and kept as it was it
// would be open. Callers hear at once that it is not served here, and go elsewhere.
func TestANodeThatIsTooOldLetsNobodyIn(t *testing.T) {
	n := &Node{log: slog.New(slog.DiscardHandler)}
	if err := n.admission.set(accessed, &snapshot.Inbound{}); err != nil {
		t.Fatal(err)
	}
	lets := func() bool {
		d, known := n.admission.Decide(t.Context(), accessed, &authz.Request{})
		return known && !d.Denied
	}
	subject := snapshot.InSubject(accessed.Namespace, accessed.Name)
	n.deliver(bus.Update{Subject: subject, Refused: []string{"ingress-of-the-future"}})
	n.deliver(bus.Update{Subject: snapshot.OutSubject(accessed.Namespace, accessed.Name, ""), Refused: []string{"authorization-of-the-future"}})
	if !lets() {
		t.Error("what does not say who may call shuts the service")
	}
	n.deliver(bus.Update{Subject: subject, Refused: []string{snapshot.FeatureFilters, "authorization-of-the-future"}})
	if lets() {
		t.Error("the service is open")
	}
	if err := n.admission.set(accessed, &snapshot.Inbound{}); err != nil {
		t.Fatal(err)
	}
	if !lets() {
		t.Error("the service stays shut when its node knows again who may call")
	}
}

func TestWhatCannotBeUsedLeavesWhatWas(t *testing.T) {
	var a access
	if err := a.set(accessed, restricting()); err != nil {
		t.Fatal(err)
	}
	bad := restricting()
	bad.Authorization.Policies[0].Rules = []*snapshot.AuthorizationRule{{From: []*snapshot.AuthorizationSource{{Services: []string{"no name/"}}}}}
	if a.set(accessed, bad) == nil {
		t.Error("it was used")
	}
	if d, known := a.Decide(t.Context(), accessed, &authz.Request{}); !known || !d.Denied {
		t.Errorf("%+v, %t", d, known)
	}
}

func TestDenialsAreCountedByPolicy(t *testing.T) {
	var a access
	if err := a.set(accessed, restricting()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.Denied(&proxy.Observation{Callee: accessed}, &authz.Decision{Denied: true, Policy: "shop/p"})
	}
	if all, counts := a.denied.list(); len(all) != 1 || counts[0] != 3 || all[0] != (denial{accessed, "shop/p", false}) {
		t.Errorf("%+v %v", all, counts)
	}
	if err := a.set(accessed, &snapshot.Inbound{}); err != nil {
		t.Fatal(err)
	}
	if all, _ := a.denied.list(); len(all) != 0 {
		t.Errorf("of a policy that is gone there is %+v", all)
	}
}
