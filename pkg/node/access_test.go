package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authz"
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
	if all, counts := a.denials(); len(all) != 1 || counts[0] != 3 || all[0] != (denial{accessed, "shop/p", false}) {
		t.Errorf("%+v %v", all, counts)
	}
	if err := a.set(accessed, &snapshot.Inbound{}); err != nil {
		t.Fatal(err)
	}
	if all, _ := a.denials(); len(all) != 0 {
		t.Errorf("of a policy that is gone there is %+v", all)
	}
}
