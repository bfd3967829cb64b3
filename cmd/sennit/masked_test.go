package main

import (
	"strings"
	"testing"
)

// TestDiffShowsNoSecret: it shows which values are different, and of none what it is.
func TestDiffShowsNoSecret(t *testing.T) {
	shown := func(kind, a, b string) []string {
		data, err := text(map[string]any{
			"apiVersion": "v1", "kind": kind, "data": map[string]any{"a": a, "b": b},
			"metadata": map[string]any{"name": "s", "annotations": map[string]any{"kubectl.kubernetes.io/last-applied-configuration": a + b, "x": "y"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(string(data), "\n")
	}
	was, is := shown("Secret", "Zm9v", "YmFy"), shown("Secret", "Zm9v", "YmF6")
	if was[2] != is[2] || was[3] == is[3] {
		t.Errorf("%v\n%v", was, is)
	}
	all := strings.Join(append(was, is...), "\n")
	if strings.Contains(all, "Zm9v") || strings.Contains(all, "YmF") || !strings.Contains(all, "x: \"y\"") {
		t.Error(all)
	}
	if plain := strings.Join(shown("ConfigMap", "Zm9v", "YmFy"), "\n"); !strings.Contains(plain, "Zm9v") {
		t.Error(plain)
	}
}
