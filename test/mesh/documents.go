package mesh

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// collections are the API's paths of the kinds that tests apply.
var collections = map[string]string{
	"Service":              "/api/v1/namespaces/%s/services/%s",
	"Secret":               "/api/v1/namespaces/%s/secrets/%s",
	"Gateway":              "/apis/gateway.networking.k8s.io/v1/namespaces/%s/gateways/%s",
	"GRPCRoute":            "/apis/gateway.networking.k8s.io/v1/namespaces/%s/grpcroutes/%s",
	"TLSRoute":             "/apis/gateway.networking.k8s.io/v1/namespaces/%s/tlsroutes/%s",
	"TCPRoute":             "/apis/gateway.networking.k8s.io/v1/namespaces/%s/tcproutes/%s",
	"UDPRoute":             "/apis/gateway.networking.k8s.io/v1/namespaces/%s/udproutes/%s",
	"HTTPRoute":            "/apis/gateway.networking.k8s.io/v1/namespaces/%s/httproutes/%s",
	"ExternalService":      "/apis/sennit.dev/v1alpha1/namespaces/%s/externalservices/%s",
	"AuthenticationPolicy": "/apis/sennit.dev/v1alpha1/namespaces/%s/authenticationpolicies/%s",
	"FederatedTrustDomain": "/apis/sennit.dev/v1alpha1/federatedtrustdomains/%[2]s",
	"AuthorizationPolicy":  "/apis/sennit.dev/v1alpha1/namespaces/%s/authorizationpolicies/%s",
	"ResiliencePolicy":     "/apis/sennit.dev/v1alpha1/namespaces/%s/resiliencepolicies/%s",
	"FaultPolicy":          "/apis/sennit.dev/v1alpha1/namespaces/%s/faultpolicies/%s",
	"QuotaPolicy":          "/apis/sennit.dev/v1alpha1/namespaces/%s/quotapolicies/%s",
	"LoadBalancingPolicy":  "/apis/sennit.dev/v1alpha1/namespaces/%s/loadbalancingpolicies/%s",
	"ConfigMap":            "/api/v1/namespaces/%s/configmaps/%s",
	"BackendTLSPolicy":     "/apis/gateway.networking.k8s.io/v1/namespaces/%s/backendtlspolicies/%s",
	"ReferenceGrant":       "/apis/gateway.networking.k8s.io/v1/namespaces/%s/referencegrants/%s",
	"ListenerSet":          "/apis/gateway.networking.k8s.io/v1/namespaces/%s/listenersets/%s",
}

// Documents stores YAML documents, separated by "---", and waits for each until every node that uses it has
// applied it. Documents without a namespace are of "default".
func (m *Mesh) Documents(documents string) error {
	for text := range strings.SplitSeq(documents, "\n---\n") {
		path, document, err := parse(text)
		if err != nil {
			return err
		}
		if err := m.Apply(m.t.Context(), path, document); err != nil {
			return fmt.Errorf("apply to %s: %w", path, err)
		}
	}
	return nil
}

// StoreOnly stores one YAML document and returns its resource version.
func (m *Mesh) StoreOnly(text string) (version string, err error) {
	path, document, err := parse(text)
	if err != nil {
		return "", err
	}
	return m.Store(m.t.Context(), path, document)
}

// parse makes JSON of a document and tells the path of its API resource.
func parse(text string) (path string, document json.RawMessage, err error) {
	var of struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"metadata"`
	}
	encoded, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return "", nil, err
	}
	if err := json.Unmarshal(encoded, &of); err != nil {
		return "", nil, err
	}
	pattern, ok := collections[of.Kind]
	if !ok {
		return "", nil, fmt.Errorf("no path for documents of kind %q", of.Kind)
	}
	return fmt.Sprintf(pattern, cmp.Or(of.Metadata.Namespace, "default"), of.Metadata.Name), encoded, nil
}

// Read reads a document of a kind that tests apply; name is "namespace/name".
func (m *Mesh) Read(kind, name string, into any) error {
	namespace, name, _ := strings.Cut(name, "/")
	return launch.Call(m.t.Context(), m.Socket(), http.MethodGet, fmt.Sprintf(collections[kind], namespace, name), nil, into)
}

// MustApply is Documents, and ends the test where that fails.
func (m *Mesh) MustApply(documents string) {
	m.t.Helper()
	m.must("apply", m.Documents(documents))
}

// Allow lets a node that has joined run one more service.
func (m *Mesh) Allow(node, service string) error {
	return launch.Call(m.t.Context(), m.Socket(), http.MethodPost, report.PathNodes+node+"/allow", report.Allow{Service: service}, nil)
}

// Write puts a document into a node's services.d, as a file of its own.
func (m *Mesh) Write(node, document string) {
	m.t.Helper()
	m.declared[node]++
	m.must("write services.d", m.Declare(node, strconv.Itoa(m.declared[node])+".yaml", document))
}

// Listen has a node listen for local callers that speak as one service and reach another ("namespace/name:port"),
// waits until it does, and returns the address.
func (m *Mesh) Listen(node, as, to string) string {
	m.t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", m.port())
	m.Write(node, fmt.Sprintf("service: %s\ninstance: %s\nlisteners: [{as: %s, to: %q, address: %q}]\n", as, "caller-"+strconv.Itoa(m.declared[node]), as, to, address))
	m.Eventually(node+" listens on "+address, func(ctx context.Context) error {
		conn, err := m.Dial(ctx, node, address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return address
}

// Status is what a node knows of itself.
func (m *Mesh) Status(node string) (report.Node, error) { return m.NodeStatus(m.t.Context(), node) }

// Cluster is what the controller knows.
func (m *Mesh) Cluster() (report.Cluster, error) { return m.Mesh.Status(m.t.Context()) }

// allBack waits until a controller that has just started has heard of every node, and each has applied what is stored. Only
// then is a change waited for on all of them, however long they take (the controller's settling).
func (m *Mesh) allBack() {
	m.t.Helper()
	m.Eventually("every node is back and up to date", func(context.Context) error {
		cluster, err := m.Cluster()
		if err != nil {
			return err
		}
		for _, n := range cluster.Nodes {
			if n.State != report.Alive || n.Applied == 0 || n.Behind > 0 {
				return fmt.Errorf("%+v", n)
			}
		}
		return nil
	})
}

// AccessLog returns the lines of a node's access log; fields are as docs of the log name them.
func (m *Mesh) AccessLog(node string) ([]map[string]any, error) {
	text, err := os.ReadFile(filepath.Join(m.Dir, node, "access.log"))
	if err != nil {
		return nil, err
	}
	var lines []map[string]any
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // being written
		}
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			return nil, fmt.Errorf("access log of %s: %q: %w", node, line, err)
		}
		lines = append(lines, fields)
	}
	return lines, nil
}

// Resident returns a process's resident memory in bytes.
func Resident(p *launch.Process) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("no VmRSS in the status of %s", p.Name)
}
