// Command sennit is the operator's: it applies and shows documents, lets hosts join, says how the mesh is, and runs
// the daemons and a demo of all of it.
//
// Each command stands in a file of its own and does one thing by way of package client, which speaks to a controller
// or to this host's node. Start reading at root.go, which lists them, then apply.go.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	os.Exit(exitCode(root.ErrOrStderr(), root.ExecuteContext(ctx)))
}
