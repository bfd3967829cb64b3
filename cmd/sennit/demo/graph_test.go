package demo

import (
	"errors"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

func TestGraphMustHoldEveryCall(t *testing.T) {
	whole := []telemetry.GraphEdge{
		{Caller: "shop/customers", Callee: "shop/storefront", Backend: "shop/storefront", Version: "v1", Rate: 400},
		{Caller: "shop/storefront", Callee: "shop/orders", Backend: "shop/orders", Version: "v1", Rate: 400},
		{Caller: "shop/orders", Callee: "shop/payments", Backend: "shop/payments-v1", Version: "v1", Rate: 100},
		{Caller: "shop/orders", Callee: "shop/payments", Backend: "shop/payments-v2", Version: "v2", Rate: 300},
	}
	if err := checkGraph(whole); err != nil {
		t.Error(err)
	}
	if err := checkGraph(whole[:3]); !errors.Is(err, ErrNotShown) || !strings.Contains(err.Error(), "shop/payments-v2 v2") {
		t.Errorf("without a call of v2: %v", err)
	}
	if err := checkGraph(whole[1:]); !errors.Is(err, ErrNotShown) || !strings.Contains(err.Error(), "shop/customers") {
		t.Errorf("without the customers: %v", err)
	}
}
