package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/controller"
	"github.com/sennit-mesh/sennit/pkg/node"
)

// startSennitPair starts a controller, a node with the caller's listener and a node in front of the origin;
// the two nodes are what counts. They run as this program started again, so that what is measured is what
// stands in the working copy.
func startSennitPair(ctx context.Context, dir, origin, profile string) (*system, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ports, err := launch.FreePorts(3)
	if err != nil {
		return nil, err
	}
	m := &launch.Mesh{Dir: filepath.Join(dir, "sennit"), Program: []string{self}}
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return nil, err
	}
	if profile != "" {
		if err := os.Setenv("SENNIT_BENCH_PROFILE", profile); err != nil {
			return nil, err
		}
	}
	s := &system{name: "sennit", address: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	s.finished = append(s.finished, func() {
		if err := m.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	})
	if err := m.StartController(ctx); err != nil {
		return s, err
	}
	for i, name := range []string{"front", "back"} {
		p, err := m.Join(ctx, name, fmt.Sprintf("127.0.0.1:%d", ports[i+1]), "bench/client", "bench/origin")
		if err != nil {
			return s, err
		}
		s.processes = append(s.processes, p.PID())
	}
	err = m.Declare("back", "origin.yaml", fmt.Sprintf("service: bench/origin\nports: [{port: 80, name: http, protocol: http, address: %q}]\n", origin))
	if err != nil {
		return s, err
	}
	return s, m.Declare("front", "client.yaml", fmt.Sprintf("service: bench/client\nlisteners: [{as: bench/client, to: bench/origin:80, address: %q}]\n", s.address))
}

// runDaemon is what the children of startSennitPair run. Two processors are what a pair of peers gets too.
func runDaemon(ctx context.Context, name string, args []string) error {
	if name == "controller" {
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
	if dir := os.Getenv("SENNIT_BENCH_PROFILE"); dir != "" {
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
