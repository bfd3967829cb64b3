package conformance

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// A Host is a node of the mesh, and what an operator does to have it run services.
type Host struct {
	Mesh *launch.Mesh
	Name string
}

// Declare lets the node run a service, and writes a file of its services.d.
func (h *Host) Declare(ctx context.Context, file, service, document string) error {
	path := report.PathNodes + h.Name + "/allow"
	if err := launch.Call(ctx, h.Mesh.Socket(), http.MethodPost, path, report.Allow{Service: service}, nil); err != nil {
		return fmt.Errorf("allow %s to run %s: %w", h.Name, service, err)
	}
	return h.Mesh.Declare(h.Name, file+".yaml", document)
}

// Withdraw removes a file of the node's services.d.
func (h *Host) Withdraw(file string) {
	_ = os.Remove(filepath.Join(h.Mesh.ServicesDir(h.Name), file+".yaml")) // it may be withdrawn twice
}
