package mesh

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/controller"
	"github.com/sennit-mesh/sennit/pkg/node"
)

// Main is the body of TestMain in a package that starts meshes: it runs the tests, or, where the test binary
// was started again as a part of a mesh, that part.
func Main(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(runTests(m))
	}
	run := map[string]func(context.Context, []string) error{
		"controller": runController, "node": runNode, "service": runService, "stranger": runStranger, "operator": runOperator, "application": runApplication,
	}[os.Args[1]]
	if run == nil {
		os.Exit(runTests(m))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runTests(m *testing.M) int {
	if err := runAtOnce(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func runController(ctx context.Context, args []string) error {
	cfg, err := controller.LoadConfig(args)
	if err != nil {
		return err
	}
	if cfg.Now, err = clock(); err != nil {
		return err
	}
	return controller.Serve(ctx, cfg)
}

func runNode(ctx context.Context, args []string) error {
	cfg, err := node.LoadConfig(args, os.Environ())
	if err != nil {
		return err
	}
	if cfg.Now, err = clock(); err != nil {
		return err
	}
	n, err := node.New(ctx, cfg)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}
