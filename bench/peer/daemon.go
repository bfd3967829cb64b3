package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/sennit-mesh/sennit/pkg/controller"
	"github.com/sennit-mesh/sennit/pkg/node"
)

// buildNode builds cmd/node of the module that this program was built from. It needs Go, as `go run ./bench` does.
func buildNode(ctx context.Context, to string) error {
	out, err := exec.CommandContext(ctx, "go", "build", "-o", to, "github.com/sennit-mesh/sennit/cmd/node").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build cmd/node: %w: %s (run the benchmark in a clone of the repository)", err, out)
	}
	return nil
}

func runController(ctx context.Context, args []string) error {
	cfg, err := controller.LoadConfig(args)
	if err != nil {
		return err
	}
	c, err := controller.New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

func runNode(ctx context.Context, args []string) error {
	if dir := os.Getenv(profileVariable); dir != "" {
		file, err := os.Create(filepath.Join(dir, fmt.Sprintf("node-%d.pprof", os.Getpid())))
		if err != nil {
			return err
		}
		defer file.Close()
		time.AfterFunc(4*time.Second, func() { _ = pprof.StartCPUProfile(file) }) // fails only where one runs
		defer pprof.StopCPUProfile()
	}
	cfg, err := node.LoadConfig(args, os.Environ())
	if err != nil {
		return err
	}
	n, err := node.New(ctx, cfg)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}
