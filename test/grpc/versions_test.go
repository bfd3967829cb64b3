package grpc

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/sennit-mesh/sennit/internal/launch"
)

const gatewayAPI = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/"

// A version is a process of orders that says which it is, in HTTP/1.1 and HTTP/2 with its name as the body, and in gRPC
// as the server's ID.
type version struct {
	testgrpc.TestServiceServer

	name  string
	calls atomic.Int64 // of UnaryCall
}

// UnaryCall answers with the version, and the field x-team of the call as the user name.
func (v *version) UnaryCall(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	v.calls.Add(1)
	fields, _ := metadata.FromIncomingContext(ctx)
	return &testgrpc.SimpleResponse{ServerId: v.name, Username: strings.Join(fields.Get("x-team"), ", ")}, nil
}

// start serves the version and returns its address.
func (v *version) start(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	calls := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(calls, v)
	server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			calls.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, v.name)
	})}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

// startVersions starts a mesh with orders of versions v1 and v2, each with a Service of its own, and returns where
// callers connect to.
func startVersions(t *testing.T) (m *launch.Mesh, listener string, versions map[string]*version) {
	t.Helper()
	versions = map[string]*version{}
	addresses := map[string]string{}
	for _, name := range []string{"v1", "v2"} {
		versions[name] = &version{TestServiceServer: interop.NewTestServer(), name: name}
		addresses[name] = versions[name].start(t)
	}
	m, listener = startNodes(t, addresses["v1"], "kubernetes.io/h2c")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, address := range addresses {
		file := map[string]string{"v1": "orders.yaml", "v2": "orders-v2.yaml"}[name]
		must(t, m.Declare("callee", file, fmt.Sprintf("service: shop/orders\ninstance: %s\nlabels: {version: %s}\nports: [{port: 80, name: web, address: %q}]\n", name, name, address)))
		must(t, m.Apply(ctx, "/api/v1/namespaces/shop/services/orders-"+name, raw(fmt.Sprintf(
			`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-%s", "namespace": "shop"},
			"spec": {"selector": {"sennit.dev/service": "orders", "version": %q}, "ports": [{"port": 80, "appProtocol": "kubernetes.io/h2c"}]}}`, name, name))))
	}
	client := dialCalls(t, listener)
	seen := map[string]bool{}
	await(t, "both versions answer", func(ctx context.Context) bool {
		answer, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{})
		seen[answer.GetServerId()] = err == nil
		return seen["v1"] && seen["v2"]
	})
	return m, listener, versions
}

func dialCalls(t *testing.T, address string) testgrpc.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithAuthority("orders"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return testgrpc.NewTestServiceClient(conn)
}

// await asks until what is so, which takes a while on a machine that is busy.
func await(t *testing.T, what string, is func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	for !is(ctx) {
		select {
		case <-ask.C:
		case <-ctx.Done():
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}
