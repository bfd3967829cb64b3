package hosts

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// svid prints the SPIFFE ID that the node's Workload API gives this process, or why it gives none.
func svid() int {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	svid, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix:///run/sennit/workload.sock"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(svid.ID)
	return 0
}

// TestUnitsAreWorkloads has systemd start processes in units, and the node, as its hardened unit runs it, tell which of
// them is the service.
func TestUnitsAreWorkloads(t *testing.T) {
	h := machine(t, build(t, "v0.0.1"))
	h.put(t, "/etc/sennit/services.d/unit.yaml", []byte("service: default/held\ninstance: unit\nworkload: {unit: orders.service}\n---\nservice: default/held\ninstance: template\nworkload: {unit: batch@.service}\n"))
	h.must(t, "systemctl reload sennit-node")
	run := func(unit string) string {
		return "systemd-run --quiet --wait --pipe --collect --uid=65534 --unit=" + unit + " held svid"
	}
	const held = "spiffe://sennit.local/ns/default/svc/held"
	h.says(t, run("orders.service"), held)
	h.says(t, run("batch@7.service"), held)
	for _, other := range []string{"orders2.service", "batch.service"} {
		h.says(t, run(other), "PermissionDenied")
	}
	h.says(t, "held svid", "PermissionDenied") // root itself, in no unit that is named
}
