package node

import (
	"net/netip"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestOutsides: a host outside is another one, with connections of its own, where the document or what services.d opens has
// changed, and the same where neither has.
func TestOutsides(t *testing.T) {
	bank := exchange.ServiceName{Namespace: "shop", Name: "bank"}
	var o outsides
	document := func(port uint32) *snapshot.Outside { return &snapshot.Outside{Host: "bank.example", Port: port} }
	opened := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	allow := func(exchange.ServiceName) []netip.Prefix { return opened }
	if err := o.set(bank, document(1), opened); err != nil {
		t.Fatal(err)
	}
	first := o.find(bank)
	if err := o.set(bank, document(1), opened); err != nil || o.find(bank) != first {
		t.Errorf("what did not change is another host: %v", err)
	}
	if o.allow(allow); o.find(bank) != first {
		t.Error("what services.d did not change is another host")
	}
	opened = nil
	if o.allow(allow); o.find(bank) == first || o.find(bank) == nil {
		t.Error("what services.d opens no more is still open")
	}
	second := o.find(bank)
	if err := o.set(bank, document(2), nil); err != nil || o.find(bank) == second {
		t.Errorf("another port is the same host: %v", err)
	}
	if err := o.set(bank, &snapshot.Outside{}, nil); err == nil || o.find(bank) == nil {
		t.Error("what cannot be used replaces what could")
	}
	if o.drop(snapshot.InSubject("shop", "bank")); o.find(bank) != nil {
		t.Error("what is not followed any more leads outside")
	}
}
