package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	suite "sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/flags"
	confsuite "sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// TestConformance runs the suite. Its own flags are there: -run-test NAME runs one test, -report-output FILE writes the report.
func TestConformance(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: gateways and pods have addresses in a network namespace")
	}
	must(t, network())
	mesh := startMesh(t)
	config := controllerConfig(t, mesh)
	front := startCluster(t, mesh, config)

	// The suite finds its API as it does anywhere.
	server := front.Start()
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	t.Setenv("KUBECONFIG", kubeconfig(t, server.URL))
	options := suite.DefaultOptions(t)
	options.RestConfig.QPS = -1 // its clients wait for nobody
	if options.GatewayClassName == flags.DefaultGatewayClassName {
		options.GatewayClassName = "sennit"
	}
	if len(options.ConformanceProfiles) == 0 {
		options.ConformanceProfiles = []confsuite.ConformanceProfileName{
			confsuite.GatewayHTTPConformanceProfileName, confsuite.GatewayGRPCConformanceProfileName,
			confsuite.GatewayTLSConformanceProfileName, confsuite.GatewayTCPConformanceProfileName,
			confsuite.GatewayUDPConformanceProfileName,
		}
	}
	declared := classFeatures(t, options.Client, options.GatewayClassName)
	if options.RunTest != "" && len(options.SupportedFeatures) == 0 {
		options.SupportedFeatures = declared // else the suite reads them itself
	}
	options.CleanupBaseResources = false // all of the cluster ends
	options.Implementation = confv1.Implementation{
		Organization: "sennit-mesh", Project: "sennit", URL: "https://github.com/sennit-mesh/sennit", Version: "main",
		Contact: []string{"https://github.com/sennit-mesh/sennit/issues"},
	}
	kind := gatewayv1.IPAddressType
	options.UsableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: &kind, Value: usableAddress}}
	options.UnusableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: &kind, Value: "10.98.0.1"}}
	whole := options.RunTest == "" && options.ReportOutputPath == ""
	if options.ReportOutputPath == "" {
		options.ReportOutputPath = filepath.Join(t.TempDir(), "report.yaml")
	}
	t.Cleanup(func() { // the suite writes it in a cleanup too: some tests end later than its Run
		got := summary(readReport(t, options.ReportOutputPath))
		t.Log("\n" + got)
		if committed := summary(readReport(t, reportFile)); whole && committed != got {
			t.Errorf("%s says otherwise; write it anew with -report-output %s:\n%s", reportFile, reportFile, committed)
		}
	})
	suite.RunConformanceWithOptions(t, options)
}

// usableAddress is one that a Gateway may ask for.
const usableAddress = "10.97.255.1"

// The hosts of the mesh.
const (
	gatewayHost = "gateway"
	workerHost  = "worker"
)

// startMesh starts a controller and two nodes: one for Gateways, one for pods.
func startMesh(t *testing.T) *launch.Mesh {
	programs := os.Getenv(inside)
	mesh := &launch.Mesh{Dir: filepath.Join(programs, "mesh"), Program: []string{filepath.Join(programs, "sennit")}}
	must(t, os.Mkdir(mesh.Dir, 0o700))
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range []*launch.Process{mesh.Controller(), mesh.Node(gatewayHost), mesh.Node(workerHost)} {
				if p != nil {
					t.Logf("== %s\n%s", p.Name, p.Tail(6000))
				}
			}
		}
		if err := mesh.Stop(); err != nil {
			t.Error(err)
		}
	})
	must(t, mesh.StartController(t.Context()))
	for _, name := range []string{gatewayHost, workerHost} {
		_, err := mesh.Join(t.Context(), name, "127.0.0.1:0")
		must(t, err)
	}
	return mesh
}

// controllerConfig is how clients reach the controller's API: what `sennit kubeconfig` answers.
func controllerConfig(t *testing.T, mesh *launch.Mesh) *rest.Config {
	file := filepath.Join(mesh.Dir, "kubeconfig")
	text, err := readText(t.Context(), mesh.Socket(), report.PathKubeconfig)
	must(t, err)
	must(t, os.WriteFile(file, text, 0o600))
	config, err := clientcmd.BuildConfigFromFlags("", file)
	must(t, err)
	config.QPS = -1
	return config
}

// startCluster has everything run that the suite expects of a cluster, and returns the API in front of it.
func startCluster(t *testing.T, mesh *launch.Mesh, config *rest.Config) *Front {
	front, err := NewFront(config)
	must(t, err)
	api, err := client.NewWithWatch(config, client.Options{})
	must(t, err)
	must(t, gatewayv1.Install(api.Scheme()))
	worker := &Host{Mesh: mesh, Name: workerHost}
	pods := &Pods{
		Node: worker, Shelf: front.Pods, Echo: filepath.Join(os.Getenv(inside), "echo"),
		Secrets: func(ctx context.Context, namespace, name string) (map[string][]byte, error) {
			secret := &corev1.Secret{}
			err := eventually(ctx, func() error { return api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, secret) })
			return secret.Data, err
		},
		Registered: func(ctx context.Context, namespace, instance string) error {
			return eventually(ctx, func() error { return listed(ctx, api, namespace, instance) })
		},
	}
	front.Log = pods.Log
	front.Deployments.Changed = pods.Deployed
	front.Slices.Changed = (&Slices{Node: worker}).Written
	t.Cleanup(pods.Stop)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&Addresses{Node: &Host{Mesh: mesh, Name: gatewayHost}, API: api, Usable: usableAddress}).Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return front
}

// listed tells whether an instance stands in the controller's EndpointSlices.
func listed(ctx context.Context, api client.Client, namespace, instance string) error {
	all := &discoveryv1.EndpointSliceList{}
	if err := api.List(ctx, all, client.InNamespace(namespace)); err != nil {
		return err
	}
	for _, slice := range all.Items {
		for _, e := range slice.Endpoints {
			if e.Hostname != nil && *e.Hostname == instance {
				return nil
			}
		}
	}
	return fmt.Errorf("instance %s is not registered yet", instance)
}

// classFeatures are those that the class declares, once the controller has said what became of it.
func classFeatures(t *testing.T, api client.Client, name string) (declared []features.FeatureName) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, eventually(ctx, func() error {
		class := &gatewayv1.GatewayClass{}
		if err := api.Get(ctx, client.ObjectKey{Name: name}, class); err != nil {
			return err
		}
		if len(class.Status.SupportedFeatures) == 0 {
			return fmt.Errorf("class %s declares no features", name)
		}
		for _, f := range class.Status.SupportedFeatures {
			declared = append(declared, features.FeatureName(f.Name))
		}
		return nil
	}))
	return declared
}

// kubeconfig writes one for the front, which is open to whoever is in the namespace, and returns its file.
func kubeconfig(t *testing.T, server string) string {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: front
clusters: [{name: front, cluster: {server: %q}}]
users: [{name: front, user: {}}]
contexts: [{name: front, context: {cluster: front, user: front}}]
`, server), 0o600))
	return file
}

// readText reads what a daemon answers on its unix socket.
func readText(ctx context.Context, socket, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sennit"+path, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return io.ReadAll(response.Body)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
