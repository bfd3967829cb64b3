package peer

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/sennit-mesh/sennit/bench/load"
)

// StartHAProxy starts two HAProxys. For HTTP the first takes plain HTTP/1.1 and speaks HTTP/2 over mutual TLS 1.3
// to the second, and shares its connections among all applications; for raw TCP both relay bytes, with a TLS
// connection between them for each of the application's.
func StartHAProxy() Starter {
	return Starter{
		Name: HAProxy,
		Find: func(ctx context.Context) (string, error) {
			binary, err := findHAProxy()
			if err != nil {
				return "", err
			}
			out, err := exec.CommandContext(ctx, binary, "-v").Output()
			// "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"
			if fields := strings.Fields(firstLine(out)); len(fields) > 2 {
				return fields[2], err
			}
			return firstLine(out), err
		},
		Start: startHAProxy,
	}
}

// haproxyConfig is that of both ends: the front end has TLS towards its servers, the back end on its listeners.
// Sessions are not resumed, so that each new connection is a whole handshake, as a new lane is.
var haproxyConfig = template.Must(template.New("haproxy").Parse(`
global
  nbthread {{.Workers}}
  maxconn 4000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  timeout connect 5s
  timeout client 1h
  timeout server 1h
{{range .Ways}}
listen {{.Name}}
  mode {{.Mode}}
  bind {{.Listen}} {{if not $.Front}}ssl crt {{$.Dir}}/server.pem ca-file {{$.Dir}}/ca.crt verify required{{if eq .Mode "http"}} alpn h2{{end}}{{end}}
  {{if eq .Mode "http"}}http-reuse always{{end}}
  server next {{.Next}} {{if $.Front}}ssl crt {{$.Dir}}/client.pem ca-file {{$.Dir}}/ca.crt verify required verifyhost server sni str(server) no-ssl-reuse{{if eq .Mode "http"}} alpn h2{{end}}{{end}}
{{end}}`))

type haproxyWay struct{ Name, Mode, Listen, Next string }

func startHAProxy(ctx context.Context, dir string, origin Origin) (*System, error) {
	binary, err := findHAProxy()
	if err != nil {
		return nil, err
	}
	if err := writeCertificates(dir); err != nil {
		return nil, err
	}
	a, err := loopback(6)
	if err != nil {
		return nil, err
	}
	s := &System{Name: HAProxy, HTTP: load.To(a[0]), TCP: load.To(a[1]), WebOverTCP: load.To(a[2])}
	ways := map[string][]haproxyWay{
		"front": {{"web", "http", a[0], a[3]}, {"raw", "tcp", a[1], a[4]}, {"over", "tcp", a[2], a[5]}},
		"back":  {{"web", "http", a[3], origin.HTTP}, {"raw", "tcp", a[4], origin.TCP}, {"over", "tcp", a[5], origin.HTTP}},
	}
	argv := map[string][]string{}
	for end := range ways {
		var config bytes.Buffer
		err := haproxyConfig.Execute(&config, map[string]any{"Workers": workers, "Dir": dir, "Front": end == "front", "Ways": ways[end]})
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "haproxy-"+end+".cfg")
		if err := os.WriteFile(file, config.Bytes(), 0o600); err != nil {
			return nil, err
		}
		argv[end] = []string{binary, "-db", "-f", file}
	}
	return s, s.pair(ctx, dir, argv["front"], argv["back"])
}

func findHAProxy() (string, error) {
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} { // Debian's PATH of users lacks sbin
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: haproxy (install it with `apt-get install haproxy`)", ErrMissing)
}
