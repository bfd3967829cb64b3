package controller

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/sennit-mesh/sennit/internal/segments"
	"github.com/sennit-mesh/sennit/internal/socket"
)

// serveAPI answers operators over TLS.
func (c *Controller) serveAPI(ctx context.Context) error {
	if !c.cfg.API.IsValid() {
		<-ctx.Done()
		return nil
	}
	listen := net.ListenConfig{Control: segments.Short} // for every client, kubectl too
	l, err := listen.Listen(ctx, "tcp", c.cfg.API.String())
	if err != nil {
		return fmt.Errorf("%w (another process has the port, or it needs a privilege; choose with --api)", err)
	}
	c.apiAddress.Store(ptr(l.Addr().(*net.TCPAddr).AddrPort()))
	l = tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: c.authority.ServerCertificate(c.cfg.hosts()),
	})
	return socket.Serve(ctx, l, c.api.Authenticated(c.withReports(c.api.API())))
}

// serveSocket answers operators on this host, without a token: who may open the file is an operator.
func (c *Controller) serveSocket(ctx context.Context) error {
	if c.cfg.Socket == "" {
		<-ctx.Done()
		return nil
	}
	l, err := socket.Listen(ctx, c.cfg.Socket)
	if err != nil {
		return err
	}
	return socket.Serve(ctx, l, c.api.Local(c.withReports(c.api.API()), localCaller))
}

func ptr[T any](v T) *T { return &v }
