package ca

import (
	"testing"
	"time"
)

// TestTheNewestOfOneSecondIsCurrent: a node that renews twice in a second holds the second certificate, and that is the one
// that an operator is shown to revoke. Which serial number is the greater one is chance.
func TestTheNewestOfOneSecondIsCurrent(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	for range 12 {
		c.clock.advance(time.Millisecond)
		if err := i.request(t.Context(), c.wire("web1"), false); err != nil {
			t.Fatal(err)
		}
		all, err := c.registrar.Certificates(t.Context(), func(one Issued) bool { return one.Serial == leafSerial(t, i, orders) })
		if err != nil || len(all) != 1 || all[0].State != CertificateCurrent {
			t.Fatalf("what the node holds is %+v, %v", all, err)
		}
	}
}
