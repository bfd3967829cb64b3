package node

import (
	"strings"
	"testing"
)

func TestPlaces(t *testing.T) {
	c, err := LoadConfig([]string{"--zone", "eu-1a", "--region", "eu-1"}, nil)
	if err != nil || c.Zone != "eu-1a" || c.Region != "eu-1" {
		t.Errorf("%q %q %v", c.Zone, c.Region, err)
	}
	for _, flag := range []string{"--zone", "--region"} {
		for _, place := range []string{"a b", "-a", strings.Repeat("a", 64), "a/b"} {
			if _, err := LoadConfig([]string{flag, place}, nil); err == nil || !strings.HasPrefix(err.Error(), flag+" is ") {
				t.Errorf("%s %q: %v", flag, place, err)
			}
		}
	}
}
