package bus

import (
	"strings"
	"testing"
	"time"
)

// TestBusAwayIsToldRarely takes the bus away for half an hour: a node tries again and again, and its log says so when it
// begins, then once a minute of each thing that it tries, and once that all is well again.
func TestBusAwayIsToldRarely(t *testing.T) {
	const away = 30 * time.Minute
	s := quietSim(t, 1)
	lines := func(what string) (n int) {
		for _, line := range s.log {
			if strings.Contains(line, "node0: "+what) {
				n++
			}
		}
		return n
	}
	troubles := map[string]string{
		"reporting what is applied failed": "what is applied is reported again",
		"catching up failed":               "catching up is answered again",
		"beats are missing":                "beats come again",
	}
	for i := range s.servers {
		s.servers[i].stalledUntil = s.now.Add(away)
	}
	s.nodes[0].core.interest(s.now, s.nodes[0].interest[1:]) // there is something to report
	s.nodes[0].act()
	s.run(20 * time.Second)
	for what := range troubles {
		if n := lines(what); n != 1 {
			t.Errorf("in the first 20 seconds it says %d times: %s\n%s", n, what, strings.Join(s.log, "\n"))
		}
	}
	s.run(away - 20*time.Second)
	for what, well := range troubles {
		// The pauses between two attempts are of ten seconds at most.
		if n := lines(what); n > int(away/time.Minute)+1 || n < int(away/(75*time.Second)) {
			t.Errorf("within %s it says %d times: %s", away, n, what)
		}
		if n := lines(well); n != 0 {
			t.Errorf("while the bus is away it says %d times: %s", n, well)
		}
	}
	s.run(time.Minute)
	for _, well := range troubles {
		if n := lines(well); n != 1 {
			t.Errorf("when the bus is back it says %d times: %s", n, well)
		}
	}
}
