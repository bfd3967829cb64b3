package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// A connection is how a command reaches the controller: what its flags say, else the environment, else the socket
// of this host.
type connection struct {
	server, tokenFile, caFile, kubeconfig, socket string
}

// flags adds the flags of a connection to a command.
func (c *connection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.server, "server", "", "the controller's API, https://host:port (SENNIT_SERVER)")
	f.StringVar(&c.tokenFile, "token-file", "", "file with the operator's token (SENNIT_TOKEN_FILE)")
	f.StringVar(&c.caFile, "ca-file", "", "what the server's certificate must chain to, PEM (SENNIT_CA_FILE)")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "file that 'sennit kubeconfig' made, instead of --server, --token-file and --ca-file")
	f.StringVar(&c.socket, "socket", "", "the controller's unix socket (SENNIT_SOCKET; default "+report.SocketPath("controller")+")")
	for _, name := range []string{"token-file", "ca-file", "kubeconfig", "socket"} {
		_ = cmd.MarkFlagFilename(name)
	}
}

// open returns the client that the flags and the environment ask for. Warnings go to the command's standard error.
func (c *connection) open(cmd *cobra.Command) (*client.Client, error) {
	given := 0
	for _, v := range []string{c.server, c.kubeconfig, c.socket} {
		if v != "" {
			given++
		}
	}
	if given > 1 {
		return nil, misused(cmd, "give one of --server, --kubeconfig and --socket")
	}
	cfg := client.Config{Server: c.server, Kubeconfig: c.kubeconfig, Socket: c.socket}
	if cfg.Server == "" && cfg.Kubeconfig == "" && cfg.Socket == "" {
		cfg.Server = os.Getenv("SENNIT_SERVER")
	}
	if cfg.Server != "" {
		cfg.TokenFile = firstOf(c.tokenFile, os.Getenv("SENNIT_TOKEN_FILE"))
		cfg.CAFile = firstOf(c.caFile, os.Getenv("SENNIT_CA_FILE"))
	} else if c.tokenFile != "" || c.caFile != "" {
		return nil, misused(cmd, "--token-file and --ca-file are for --server, which is not given")
	}
	if cfg.Socket == "" {
		cfg.Socket = firstOf(os.Getenv("SENNIT_SOCKET"), report.SocketPath("controller"))
	}
	cl, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	cl.Warn = warner(cmd.ErrOrStderr())
	return cl, nil
}

// nodeSocketFlag adds the flag that names the local node's socket.
func nodeSocketFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "node-socket", "", "the local node's unix socket (SENNIT_NODE_SOCKET; default "+report.SocketPath("node")+")")
	_ = cmd.MarkFlagFilename("node-socket")
}

func openNode(flag string) *client.Node {
	return client.NewNode(firstOf(flag, os.Getenv("SENNIT_NODE_SOCKET"), report.SocketPath("node")))
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
