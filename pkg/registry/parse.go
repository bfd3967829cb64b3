package registry

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Limits on one file and one instance.
const (
	maxFileBytes = 1 << 20
	maxDocuments = 256
	maxPorts     = 64
	maxLabels    = 64
	maxListeners = 256
	maxWeight    = 1000
)

// Parse reads the documents of one file of services.d; docs/reference/services-d.md describes them. node
// names the instances that give no name. Where anything is wrong it returns no instance and an error that
// joins a *FieldError for each mistake, the first twenty of them.
func Parse(file string, data []byte, node string) ([]*Instance, error) {
	r := &reader{file: file}
	if len(data) > maxFileBytes {
		return nil, &FieldError{file, 1, "", fmt.Sprintf("the file has %d bytes; at most %d are read", len(data), maxFileBytes)}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var out []*Instance
	lines := map[Key]int{}
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, syntaxError(file, err)
		}
		if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
			continue
		}
		if len(out) == maxDocuments {
			r.fail(root.Content[0], "", "a file holds at most %d documents", maxDocuments)
			break
		}
		n := root.Content[0]
		in := r.instance(n, node)
		in.Origin = file + ":" + strconv.Itoa(n.Line)
		if line, twice := lines[in.Key()]; twice && in.Name != "" && !in.Service.IsZero() {
			r.fail(n, "instance", "%s is declared in line %d already; give each instance of a host a name of its own", in.Key(), line)
		}
		lines[in.Key()] = n.Line
		out = append(out, in)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	if err := cmp.Or(checkListenersApart(file, out), checkWorkloadsApart(file, out)); err != nil {
		return nil, err
	}
	return out, nil
}

func checkListenersApart(file string, instances []*Instance) error {
	used := map[socket]bool{}
	for _, in := range instances {
		for _, l := range in.Listeners {
			if used[l.socket()] {
				return &FieldError{file, lineOf(in.Origin), "listeners", fmt.Sprintf("two listeners have the address %s; give each one of its own", l.Address)}
			}
			used[l.socket()] = true
		}
	}
	return nil
}

func lineOf(origin string) int {
	line, err := strconv.Atoi(origin[strings.LastIndexByte(origin, ':')+1:])
	if err != nil {
		return 1
	}
	return line
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntaxError moves the line that the YAML library found to where lines stand in our errors.
func syntaxError(file string, err error) error {
	line, text := 1, err.Error()
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = text[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	return &FieldError{file, line, "", "not YAML: " + text}
}

func (r *reader) instance(n *yaml.Node, node string) *Instance {
	in, mistakes := &Instance{Name: node}, len(r.errors)
	var health *yaml.Node
	r.object(n, "", map[string]func(*yaml.Node, string){
		"service": func(n *yaml.Node, path string) { in.Service = r.service(n, path) },
		"instance": func(n *yaml.Node, path string) {
			if in.Name = r.string(n, path); in.Name != "" && !isInstanceName(in.Name) || n.Value == "" {
				r.fail(n, path, "must be 1 to 253 letters, digits, '.', '_' and '-', with a letter or digit at both ends, is %q", n.Value)
			}
		},
		"labels":    func(n *yaml.Node, path string) { in.Labels = r.labels(n, path) },
		"weight":    func(n *yaml.Node, path string) { in.Weight = uint32(r.integer(n, path, 1, maxWeight)) },
		"ports":     func(n *yaml.Node, path string) { in.Ports = r.ports(n, path) },
		"health":    func(n *yaml.Node, _ string) { health = n },
		"listeners": func(n *yaml.Node, path string) { in.Listeners = r.listeners(n, path) },
		"gateway":   func(n *yaml.Node, path string) { in.Gateway = r.gateway(n, path) },
		"egress":    func(n *yaml.Node, path string) { in.Egress = r.egress(n, path) },
		"workload":  func(n *yaml.Node, path string) { in.Workload = r.workload(n, path) },
	})
	if len(r.errors) == mistakes && len(in.Ports) == 0 && len(in.Listeners) == 0 && !in.IsGateway() && in.Egress == nil && in.Workload == nil {
		r.fail(n, "ports", "is missing; an instance needs a port, listeners to call others from, a workload, or to be a gateway or egress")
	}
	if in.IsGateway() && (len(in.Ports) > 0 || in.Health != nil || health != nil) {
		r.fail(n, "gateway", "stands beside ports or health; the ports of a gateway are those of its Gateway document, and its process is the node")
	}
	if in.Egress != nil && (len(in.Ports) > 0 || health != nil || in.IsGateway()) {
		r.fail(n, "egress", "stands beside ports, health or gateway; where an egress leads is said by its ExternalService, and its process is the node")
	}
	if in.Workload != nil && (in.IsGateway() || in.Egress != nil) {
		r.fail(n, "workload", "stands beside gateway or egress, whose process is the node")
	}
	if n.Kind == yaml.MappingNode && !has(n, "service") {
		r.fail(n, "service", "is missing; name the service that this host runs, as default/orders")
	}
	if health != nil { // after the ports that it refers to
		in.Health = r.health(health, "health", in.Ports)
	}
	return in
}

func has(n *yaml.Node, key string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return true
		}
	}
	return false
}

func (r *reader) service(n *yaml.Node, path string) exchange.ServiceName {
	s := r.string(n, path)
	if s == "" && n.Value != "" {
		return exchange.ServiceName{}
	}
	name, err := exchange.ParseServiceName(s)
	if err != nil {
		r.fail(n, path, "%v", err)
	}
	return name
}

func (r *reader) labels(n *yaml.Node, path string) map[string]string {
	labels := r.stringMap(n, path)
	if len(labels) > maxLabels {
		r.fail(n, path, "has %d labels, at most %d are allowed", len(labels), maxLabels)
	}
	for _, key := range sortedKeys(labels) {
		if !isLabelKey(key) || !isLabelValue(labels[key]) {
			r.fail(n, join(path, key), "keys and values have at most 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends")
		}
	}
	return labels
}

func (r *reader) ports(n *yaml.Node, path string) []Port {
	var out []Port
	r.list(n, path, func(n *yaml.Node, path string) {
		p := Port{}
		r.object(n, path, map[string]func(*yaml.Node, string){
			"port": func(n *yaml.Node, path string) { p.Number = uint16(r.integer(n, path, 1, 65535)) },
			"name": func(n *yaml.Node, path string) {
				if p.Name = r.string(n, path); !exchange.IsLabel(p.Name) {
					r.fail(n, path, "must be 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends, is %q", n.Value)
				}
			},
			"protocol": func(n *yaml.Node, path string) {
				switch r.string(n, path) {
				case "http":
					p.Protocol = snapshot.Protocol_PROTOCOL_HTTP
				case "http2", "grpc":
					p.Protocol = snapshot.Protocol_PROTOCOL_HTTP2
				case "udp":
					p.Protocol = snapshot.Protocol_PROTOCOL_UDP
				case "tcp":
				default:
					r.fail(n, path, "must be http, http2, grpc, tcp or udp, is %q", n.Value)
				}
			},
			"address": func(n *yaml.Node, path string) { p.Address = r.address(n, path) },
			"connect": func(n *yaml.Node, path string) { p.Connect = r.bool(n, path) },
			"plaintext": func(n *yaml.Node, path string) {
				at, err := netip.ParseAddrPort(r.string(n, path))
				if err != nil || at.Port() == 0 {
					r.fail(n, path, "must be an IP address and a port, such as 0.0.0.0:8080, is %q", n.Value)
				}
				p.Plaintext = at
			},
		})
		if p.Plaintext.IsValid() && p.UDP() {
			r.fail(n, join(path, "plaintext"), "is for ports of other protocols than udp")
		}
		if p.Connect && (p.Protocol == snapshot.Protocol_PROTOCOL_TCP || p.UDP()) {
			r.fail(n, join(path, "connect"), "is for ports of protocol http or http2")
		}
		for _, field := range []string{"port", "address"} {
			if n.Kind == yaml.MappingNode && !has(n, field) {
				r.fail(n, join(path, field), "is missing")
			}
		}
		for _, other := range out {
			if other.Number == p.Number && other.UDP() == p.UDP() && p.Number != 0 {
				r.fail(n, join(path, "port"), "%d is given twice", p.Number)
			}
			if other.Plaintext == p.Plaintext && p.Plaintext.IsValid() {
				r.fail(n, join(path, "plaintext"), "%s is given twice", p.Plaintext)
			}
			if other.Name == p.Name && p.Name != "" {
				r.fail(n, join(path, "name"), "%q is given twice", p.Name)
			}
		}
		out = append(out, p)
	})
	if len(out) > maxPorts {
		r.fail(n, path, "has %d ports, at most %d are allowed", len(out), maxPorts)
	}
	return out
}

// address reads an IP address with a port that can be dialled from, and listened on, by this host alone.
func (r *reader) address(n *yaml.Node, path string) netip.AddrPort {
	s := r.string(n, path)
	a, err := netip.ParseAddrPort(s)
	switch {
	case s == "" && n.Value != "": // told already
	case err != nil || a.Port() == 0:
		r.fail(n, path, "must be an IP address with a port, as 127.0.0.1:8080 or [::1]:8080, is %q", n.Value)
	case a.Addr().IsUnspecified() || a.Addr().IsMulticast():
		r.fail(n, path, "must be one address of this host, best 127.0.0.1 or ::1, so that nothing reaches it past the node; is %q", n.Value)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func (r *reader) health(n *yaml.Node, path string, ports []Port) *Check {
	c := &Check{Interval: 2 * time.Second, Healthy: 2, Unhealthy: 3}
	kinds := 0
	target := func(kind CheckKind) func(*yaml.Node, string) {
		return func(n *yaml.Node, path string) {
			kinds++
			c.Kind = kind
			fields := map[string]func(*yaml.Node, string){
				"port": func(n *yaml.Node, path string) { c.Address, c.port = r.portOf(n, path, ports) },
			}
			if kind == CheckHTTP {
				c.Path = "/"
				fields["path"] = func(n *yaml.Node, path string) {
					if c.Path = r.string(n, path); !strings.HasPrefix(c.Path, "/") || strings.ContainsFunc(c.Path, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
						r.fail(n, path, "must start with '/' and hold no spaces or control characters, is %q", n.Value)
					}
				}
			}
			r.object(n, path, fields)
			if n.Kind == yaml.MappingNode && !has(n, "port") {
				r.fail(n, join(path, "port"), "is missing; name one of the ports above")
			}
		}
	}
	r.object(n, path, map[string]func(*yaml.Node, string){
		"http":      target(CheckHTTP),
		"tcp":       target(CheckTCP),
		"interval":  func(n *yaml.Node, path string) { c.Interval = r.duration(n, path) },
		"timeout":   func(n *yaml.Node, path string) { c.Timeout = r.duration(n, path) },
		"healthy":   func(n *yaml.Node, path string) { c.Healthy = int(r.integer(n, path, 1, 100)) },
		"unhealthy": func(n *yaml.Node, path string) { c.Unhealthy = int(r.integer(n, path, 1, 100)) },
	})
	if n.Kind == yaml.MappingNode && kinds != 1 {
		r.fail(n, path, "needs one of http and tcp")
	}
	if c.Timeout == 0 {
		c.Timeout = min(time.Second, c.Interval)
	} else if c.Timeout > c.Interval {
		r.fail(n, join(path, "timeout"), "must not be longer than the interval of %s, is %s", c.Interval, c.Timeout)
	}
	return c
}

// portOf finds the port that a health check names, by name or by number.
func (r *reader) portOf(n *yaml.Node, path string, ports []Port) (netip.AddrPort, string) {
	udp := ""
	for _, p := range ports {
		if n.Kind == yaml.ScalarNode && n.Value != "" && (n.Value == p.Name || n.Value == strconv.Itoa(int(p.Number))) {
			if p.UDP() {
				udp = " that answer connections"
				continue
			}
			return p.Address, n.Value
		}
	}
	r.fail(n, path, "is none of the instance's ports%s: %q", udp, n.Value)
	return netip.AddrPort{}, ""
}

func (r *reader) duration(n *yaml.Node, path string) time.Duration {
	s := r.string(n, path)
	d, err := time.ParseDuration(s)
	if err != nil || d < 100*time.Millisecond || d > time.Hour {
		r.fail(n, path, "must be from 100ms to 1h, as 2s, is %q", n.Value)
		return time.Second
	}
	return d
}

func (r *reader) listeners(n *yaml.Node, path string) []Listener {
	var out []Listener
	r.list(n, path, func(n *yaml.Node, path string) {
		l := Listener{}
		r.object(n, path, map[string]func(*yaml.Node, string){
			"as": func(n *yaml.Node, path string) { l.As = r.service(n, path) },
			"to": func(n *yaml.Node, path string) { l.To, l.Port = r.serviceAndPort(n, path) },
			"address": func(n *yaml.Node, path string) {
				l.Address = r.address(n, path)
			},
			"uid": func(n *yaml.Node, path string) {
				l.HasUID, l.UID = true, r.uid(n, path)
			},
			"protocol": func(n *yaml.Node, path string) {
				switch r.string(n, path) {
				case "tcp":
				case "udp":
					l.UDP = true
				default:
					r.fail(n, path, "must be tcp, which is for HTTP too, or udp, is %q", n.Value)
				}
			},
			"unit": func(n *yaml.Node, path string) { l.Unit = r.unit(n, path) },
		})
		for _, field := range []string{"as", "to", "address"} {
			if n.Kind == yaml.MappingNode && !has(n, field) {
				r.fail(n, join(path, field), "is missing")
			}
		}
		if l.UDP && l.Address.IsValid() && !l.Address.Addr().IsLoopback() {
			r.fail(n, join(path, "address"), "must be of 127.0.0.0/8 or ::1 for UDP, is %s: who sends a datagram can be found out there alone", l.Address)
		}
		if l.HasUID && l.Unit != "" {
			r.fail(n, path, "has uid and unit; give one of them")
		}
		out = append(out, l)
	})
	if len(out) > maxListeners {
		r.fail(n, path, "has %d listeners, at most %d are allowed", len(out), maxListeners)
	}
	return out
}

func (r *reader) serviceAndPort(n *yaml.Node, path string) (exchange.ServiceName, uint16) {
	s := r.string(n, path)
	name, number, found := strings.Cut(s, ":")
	service, err := exchange.ParseServiceName(name)
	port, portErr := strconv.ParseUint(number, 10, 16)
	if !found || err != nil || portErr != nil || port == 0 {
		r.fail(n, path, "must be a service and its port, as default/payments:80, is %q", n.Value)
	}
	return service, uint16(port)
}

func isUnit(s string) bool {
	name, ending, found := cutLast(s, '.')
	return found && name != "" && len(s) <= 255 && (ending == "service" || ending == "scope" || ending == "slice") &&
		!strings.ContainsFunc(s, func(c rune) bool {
			return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(`:-_.\@`, c))
		})
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
