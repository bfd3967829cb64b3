package grpc

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
)

// named is gRPC's test server, and says which it is.
type named struct{ testgrpc.TestServiceServer }

func (s named) UnaryCall(ctx context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	out, err := s.TestServiceServer.UnaryCall(ctx, in)
	if err == nil && in.GetFillServerId() {
		out.ServerId = "one"
	}
	return out, err
}

// TestInterop runs gRPC's interoperability cases through two nodes. Left out are those whose matter is TLS or the
// credentials of a cloud (compute_engine_creds, service_account_creds, jwt_token_creds, oauth2_auth_token,
// per_rpc_creds, google_default_credentials, compute_engine_channel_credentials), and orca_oob, whose server reports
// every 30 seconds unless it is part of gRPC's own code. A case that fails ends the test's process: so gRPC's functions do.
func TestInterop(t *testing.T) {
	address := startMesh(t, startServer(t), "grpc")
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithAuthority("orders"), grpc.WithTransportCredentials(insecure.NewCredentials()), byLoad)
	must(t, err)
	runInterop(t, conn)
}

// byLoad has a client look at the load reports that come with answers, as orca_per_rpc asks for.
var byLoad = grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`)

// startServer starts gRPC's test server and returns its address.
func startServer(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := grpc.NewServer(orca.CallMetricsServerOption(nil))
	testgrpc.RegisterTestServiceServer(server, named{interop.NewTestServer()})
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// runInterop runs the cases over conn, once the server is reached, and closes it when the test ends.
func runInterop(t *testing.T, conn *grpc.ClientConn) {
	t.Cleanup(func() { conn.Close() })
	client := testgrpc.NewTestServiceClient(conn)
	ready, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for { // the instance is known to its callers a moment after it was declared
		_, err := client.EmptyCall(ready, &testgrpc.Empty{})
		if err == nil {
			break
		}
		if ready.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, tt := range []struct {
		name string
		do   func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)
	}{
		{"empty_unary", interop.DoEmptyUnaryCall},
		{"large_unary", interop.DoLargeUnaryCall},
		{"client_streaming", interop.DoClientStreaming},
		{"server_streaming", interop.DoServerStreaming},
		{"ping_pong", interop.DoPingPong},
		{"empty_stream", interop.DoEmptyStream},
		{"timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer},
		{"cancel_after_begin", interop.DoCancelAfterBegin},
		{"cancel_after_first_response", interop.DoCancelAfterFirstResponse},
		{"custom_metadata", interop.DoCustomMetadata},
		{"status_code_and_message", interop.DoStatusCodeAndMessage},
		{"special_status_message", interop.DoSpecialStatusMessage},
		{"unimplemented_method", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoUnimplementedMethod(ctx, conn)
		}},
		{"unimplemented_service", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
		}},
		{"pick_first_unary", func(ctx context.Context, c testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoPickFirstUnary(ctx, c)
		}},
		{"orca_per_rpc", func(ctx context.Context, c testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoORCAPerRPCTest(ctx, c)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			tt.do(ctx, client)
		})
	}
}
