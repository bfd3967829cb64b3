package mesh

import (
	"flag"
	"runtime"
	"testing"
)

// Tests of meshes wait more than they work: for silence that is long enough, for certificates that end. So all of them may
// run at once, as the testing package counts, and it is Start that has those take turns which keep the processors busy.
const allAtOnce = "100"

// turns is how many meshes there are at once, without those whose tests mostly wait (Config.Waits).
var turns = make(chan struct{}, 2*runtime.GOMAXPROCS(0))

// runAtOnce lets all parallel tests begin, unless the command line says otherwise.
func runAtOnce() error { return flag.Set("test.parallel", allAtOnce) }

// takeTurn waits for a turn, which the test gives back when everything else of it has ended.
func takeTurn(t testing.TB) {
	t.Helper()
	select {
	case turns <- struct{}{}:
		t.Cleanup(func() { <-turns })
	case <-t.Context().Done():
		t.Fatal("the test ended before its turn")
	}
}
