package mesh

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

// runOperator stores a document far longer than a packet through the API that a kubeconfig names, and reads it back.
func runOperator(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := client.New(client.Config{Kubeconfig: args[0]})
	if err != nil {
		return err
	}
	text := strings.Repeat("0123456789", 10<<10)
	document := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "default", "name": "long"}, "data": map[string]any{"text": text},
	}}
	if _, _, err := c.Apply(ctx, api.ConfigMap, document, client.ApplyOptions{}); err != nil {
		return err
	}
	stored, err := c.Get(ctx, client.Of(api.ConfigMap, document))
	if err != nil {
		return err
	}
	if read, _, _ := unstructured.NestedString(stored.Object, "data", "text"); read != text {
		return fmt.Errorf("of %d bytes %d are read back, or others", len(text), len(read))
	}
	return nil
}

// Operate stores and reads a long document from a host, through the controller's API and the network, as a command does.
func (m *Mesh) Operate(host string) error {
	m.t.Helper()
	c, err := client.New(client.Config{Socket: m.Socket()})
	m.must("reach the controller", err)
	config, err := c.Kubeconfig(m.t.Context(), 24*time.Hour)
	m.must("make a kubeconfig", err)
	file := filepath.Join(m.Dir, "kubeconfig")
	m.must("write the kubeconfig", os.WriteFile(file, config, 0o600))
	command := slices.Concat(m.Prefix[host], []string{m.self, "operator", file})
	said, err := exec.CommandContext(m.t.Context(), command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}
