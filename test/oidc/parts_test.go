package oidc

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// parts takes a kubeconfig apart.
func parts(t *testing.T, config []byte) (server string, ca []byte) {
	t.Helper()
	var k struct {
		Clusters []struct {
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
	}
	if err := yaml.Unmarshal(config, &k); err != nil || len(k.Clusters) != 1 {
		t.Fatal("no kubeconfig", err)
	}
	return k.Clusters[0].Cluster.Server, k.Clusters[0].Cluster.CA
}

// wordAfter reads lines until one begins so, and returns the rest of it. It reads no further.
func wordAfter(t *testing.T, from io.Reader, begin string) string {
	t.Helper()
	lines := bufio.NewReaderSize(from, 16)
	var seen strings.Builder
	for {
		line, err := lines.ReadString('\n')
		seen.WriteString(line)
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), begin); ok {
			return rest
		}
		if err != nil {
			t.Fatalf("nothing begins with %q: %v in %s", begin, err, seen.String())
		}
	}
}
