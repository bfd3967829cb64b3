package grpc

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// TestGRPCRoute routes calls of gRPC's own client by service, method and headers, at a Service for callers in the mesh
// and at a Gateway for those outside, and asks what a caller is told where nothing can be called.
func TestGRPCRoute(t *testing.T) {
	m, listener, versions := startVersions(t)
	ports, err := launch.FreePorts(1)
	must(t, err)
	outside := fmt.Sprintf("127.0.0.1:%d", ports[0])
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, m.Declare("caller", "edge.yaml", "service: shop/edge\ngateway: {address: 127.0.0.1}\n"))
	must(t, m.Apply(ctx, gatewayAPI+"gateways/edge", raw(fmt.Sprintf(`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
		"metadata": {"name": "edge", "namespace": "shop"},
		"spec": {"gatewayClassName": "sennit", "listeners": [{"name": "plain", "port": %d, "protocol": "HTTP"}]}}`, ports[0]))))
	must(t, m.Apply(ctx, gatewayAPI+"grpcroutes/orders", raw(`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute",
		"metadata": {"name": "orders", "namespace": "shop"},
		"spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "orders"}, {"name": "edge"}], "rules": [
			{"matches": [{"method": {"service": "grpc.testing.TestService", "method": "UnaryCall"}}],
			 "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "orders-v2", "port": 80}}}],
			 "backendRefs": [{"name": "orders-v1", "port": 80}]},
			{"matches": [{"method": {"service": "grpc.testing.TestService", "method": "UnaryCall"}, "headers": [{"name": "x-user", "value": "beta"}]}],
			 "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-team", "value": "pay"}]}},
			             {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "x-by", "value": "beta"}]}}],
			 "backendRefs": [{"name": "orders-v2", "port": 80}]},
			{"matches": [{"method": {"method": "EmptyCall"}}], "backendRefs": [{"name": "nobody", "port": 80}]},
			{"matches": [{"method": {"type": "RegularExpression", "service": "grpc\\.testing\\..*", "method": "Half.*|StreamingI.*"}}],
			 "backendRefs": [{"name": "orders-v1", "port": 80}]}]}}`)))
	for name, address := range map[string]string{"mesh": listener, "gateway": outside} {
		t.Run(name, func(t *testing.T) {
			client := dialCalls(t, address)
			if name == "gateway" {
				await(t, "the gateway lets calls in", func(ctx context.Context) bool {
					_, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{})
					return err == nil
				})
			}
			before := versions["v2"].calls.Load()
			for range 20 {
				answer, err := client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{})
				if err != nil || answer.GetServerId() != "v1" {
					t.Fatalf("by method: %v, %v", answer, err)
				}
			}
			await(t, "v2 gets copies of these calls", func(context.Context) bool { return versions["v2"].calls.Load() >= before+20 })

			var header metadata.MD
			answer, err := client.UnaryCall(metadata.AppendToOutgoingContext(t.Context(), "x-user", "beta"), &testgrpc.SimpleRequest{}, grpc.Header(&header))
			if err != nil || answer.GetServerId() != "v2" || answer.GetUsername() != "pay" || strings.Join(header.Get("x-by"), ",") != "beta" {
				t.Errorf("by header: %v, %v, %v", answer, header, err)
			}
			stream, err := client.StreamingInputCall(t.Context())
			must(t, err)
			for range 3 {
				must(t, stream.Send(&testgrpc.StreamingInputCallRequest{Payload: &testgrpc.Payload{Body: make([]byte, 10)}}))
			}
			if sum, err := stream.CloseAndRecv(); err != nil || sum.GetAggregatedPayloadSize() != 30 {
				t.Errorf("a stream, by an expression: %v, %v", sum, err)
			}

			_, err = client.EmptyCall(t.Context(), &testgrpc.Empty{})
			wantStatus(t, "of a backend that is not there", err, codes.Unavailable, "sennit: no-backend")
			_, err = client.CacheableUnaryCall(t.Context(), &testgrpc.SimpleRequest{})
			wantStatus(t, "that no rule is for", err, codes.Unimplemented, "sennit: no-route")
			both, err := client.FullDuplexCall(t.Context())
			must(t, err)
			if _, err = both.Recv(); err == nil || err == io.EOF {
				t.Errorf("a stream that no rule is for: %v", err)
			}
			wantStatus(t, "a stream that no rule is for", err, codes.Unimplemented, "sennit: no-route")
		})
	}
}

func wantStatus(t *testing.T, what string, err error, code codes.Code, message string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != message {
		t.Errorf("a call %s: %v", what, err)
	}
}
