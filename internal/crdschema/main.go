// Command crdschema writes the schema of a Gateway API kind, as its module publishes it, into the current
// folder as JSON, so that it can be embedded: the module ships the file but does not embed it.
//
//	go run ../../internal/crdschema httproutes
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

const module = "sigs.k8s.io/gateway-api"

func main() {
	for _, plural := range os.Args[1:] {
		if err := write(plural); err != nil {
			fmt.Fprintln(os.Stderr, "crdschema:", err)
			os.Exit(1)
		}
	}
}

// write copies the schema of version v1 from the experimental channel, which has all of the standard one.
func write(plural string) error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}\n{{.Version}}", module).Output()
	if err != nil {
		return fmt.Errorf("find module %s: %w (run `go mod download` first)", module, err)
	}
	dir, version, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	file := filepath.Join(string(dir), "config", "crd", "experimental", "gateway.networking.k8s.io_"+plural+".yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string `json:"name"`
				Schema struct {
					OpenAPI json.RawMessage `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	for _, v := range crd.Spec.Versions {
		if v.Name != "v1" {
			continue
		}
		doc := map[string]any{
			"comment": fmt.Sprintf("Generated from %s %s, Copyright The Kubernetes Authors, licensed under Apache-2.0. Do not edit.", module, version),
			"schema":  v.Schema.OpenAPI,
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", " ")
		if err := enc.Encode(doc); err != nil {
			return err
		}
		return os.WriteFile(plural+".schema.json", b.Bytes(), 0o644)
	}
	return fmt.Errorf("%s has no version v1", file)
}
