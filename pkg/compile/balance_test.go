package compile

import (
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func TestParseBalance(t *testing.T) {
	for value, want := range map[string]snapshot.Balance{
		"":              snapshot.Balance_BALANCE_LEAST_REQUEST,
		"least-request": snapshot.Balance_BALANCE_LEAST_REQUEST,
		"round-robin":   snapshot.Balance_BALANCE_ROUND_ROBIN,
		"random":        snapshot.Balance_BALANCE_RANDOM,
	} {
		if got, err := ParseBalance(value); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", value, got, err, want)
		}
	}
	if got, err := ParseBalance("Random"); err == nil {
		t.Errorf("an unknown value is read as %v", got)
	}
}
