package conformance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// Pods are the processes of Deployments: the suite's echo server, for each replica one in a network namespace of its own
// that hangs on a bridge, declared to a node in a file of services.d as an operator would write it.
type Pods struct {
	Node    *Host
	Shelf   *Shelf                                                                       // where they are shown
	Echo    string                                                                       // the echo server's program
	Secrets func(ctx context.Context, namespace, name string) (map[string][]byte, error) // data of a Secret
	// Registered waits until the controller knows an instance of a namespace.
	Registered func(ctx context.Context, namespace, instance string) error

	mu      sync.Mutex
	group   sync.WaitGroup
	started int
	logs    map[types.NamespacedName]string
	stop    map[types.NamespacedName]context.CancelFunc // by Deployment
}

// echoImage is what the suite's manifests name its echo server. Pods of other images are not run.
const echoImage = "registry.k8s.io/gateway-api/echo-basic:"

// Deployed starts and stops the pods of a Deployment (Shelf.Changed).
func (p *Pods) Deployed(old, now *unstructured.Unstructured) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old != nil {
		name := types.NamespacedName{Namespace: old.GetNamespace(), Name: old.GetName()}
		if stop := p.stop[name]; stop != nil {
			stop()
		}
	}
	if now == nil {
		return
	}
	deployment := &appsv1.Deployment{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(now.Object, deployment); err != nil {
		fmt.Fprintf(os.Stderr, "deployment %s/%s: %v\n", now.GetNamespace(), now.GetName(), err)
		return
	}
	containers := deployment.Spec.Template.Spec.Containers
	if len(containers) != 1 || !strings.HasPrefix(containers[0].Image, echoImage) && !strings.HasPrefix(containers[0].Image, dnsImage) {
		fmt.Fprintf(os.Stderr, "deployment %s/%s: its image is neither the echo server nor that for DNS; it has no pods\n", now.GetNamespace(), now.GetName())
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	if p.stop == nil {
		p.stop, p.logs = map[types.NamespacedName]context.CancelFunc{}, map[types.NamespacedName]string{}
	}
	p.stop[types.NamespacedName{Namespace: deployment.Namespace, Name: deployment.Name}] = stop
	replicas := int32(1)
	if deployment.Spec.Replicas != nil {
		replicas = *deployment.Spec.Replicas
	}
	for i := range replicas {
		p.started++
		pod := &pod{pods: p, deployment: deployment, number: p.started, name: fmt.Sprintf("%s-%d-%d", deployment.Name, deployment.Generation, i)}
		p.logs[types.NamespacedName{Namespace: deployment.Namespace, Name: pod.name}] = filepath.Join(p.Node.Mesh.Dir, pod.file()+".log")
		p.group.Go(func() {
			if err := pod.run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				fmt.Fprintf(os.Stderr, "pod %s/%s: %v\n", deployment.Namespace, pod.name, err)
			}
		})
	}
}

// Stop ends all pods, and waits for that.
func (p *Pods) Stop() {
	p.mu.Lock()
	for _, stop := range p.stop {
		stop()
	}
	p.mu.Unlock()
	p.group.Wait()
}

// Log is the file of a pod's output (Front.Log).
func (p *Pods) Log(namespace, pod string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	file, known := p.logs[types.NamespacedName{Namespace: namespace, Name: pod}]
	return file, known
}

// A pod is one replica of a Deployment.
type pod struct {
	pods       *Pods
	deployment *appsv1.Deployment
	number     int
	name       string
}

func (p *pod) namespace() string { return p.deployment.Namespace }
func (p *pod) file() string      { return p.namespace() + "." + p.name }

// address is the pod's, on the bridge.
func (p *pod) address() string { return fmt.Sprintf("10.96.%d.%d", 1+p.number/200, 1+p.number%200) }

// run starts the pod's process, shows it as ready once it answers, and ends it when ctx ends.
func (p *pod) run(ctx context.Context) error {
	p.show(false)
	defer p.pods.Shelf.Remove(types.NamespacedName{Namespace: p.namespace(), Name: p.name})
	program, env, ports, err := p.program(ctx)
	if err != nil {
		return err
	}
	process, err := launch.Start(p.pods.Node.Mesh.Dir, p.file(), []string{"unshare", "--net", "--", program}, env)
	if err != nil {
		return err
	}
	defer func() { _ = process.Kill() }()
	if err := p.connect(ctx, process, ports); err != nil {
		return err
	}
	service := p.namespace() + "/" + p.deployment.Name
	if err := p.pods.Node.Declare(ctx, p.file(), service, p.declaration(service, ports)); err != nil {
		return err
	}
	defer p.pods.Node.Withdraw(p.file())
	// In a cluster this would be a readiness gate: who waits for pods goes on to call them through a gateway.
	if err := p.pods.Registered(ctx, p.namespace(), p.name); err != nil {
		return err
	}
	p.show(true)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-process.Done():
		return fmt.Errorf("its process ended: %w; its log ends: %s", process.Err(), process.Tail(1000))
	}
}

// program is what runs in place of the image, with its environment and the ports that it listens on.
func (p *pod) program(ctx context.Context) (program string, env []string, ports map[int]string, err error) {
	if strings.HasPrefix(p.deployment.Spec.Template.Spec.Containers[0].Image, dnsImage) {
		program, err = os.Executable()
		return program, []string{playsDNS + "=1"}, map[int]string{53: "udp"}, err
	}
	env, err = p.environment(ctx)
	return p.pods.Echo, env, p.ports(env), err
}

// environment is what the manifest says, with what it takes from volumes in files of this host.
func (p *pod) environment(ctx context.Context) ([]string, error) {
	spec := p.deployment.Spec.Template.Spec
	mounted := map[string]string{} // folder of this host by path in the container
	for _, mount := range spec.Containers[0].VolumeMounts {
		at := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		if at < 0 || spec.Volumes[at].Secret == nil {
			return nil, fmt.Errorf("volume %s is of no Secret", mount.Name)
		}
		folder := filepath.Join(p.pods.Node.Mesh.Dir, p.file()+"."+mount.Name)
		if err := p.fill(ctx, folder, spec.Volumes[at].Secret); err != nil {
			return nil, err
		}
		mounted[mount.MountPath] = folder
	}
	var env []string
	for _, v := range spec.Containers[0].Env {
		value := v.Value
		if v.ValueFrom != nil && v.ValueFrom.FieldRef != nil {
			value = map[string]string{"metadata.name": p.name, "metadata.namespace": p.namespace()}[v.ValueFrom.FieldRef.FieldPath]
		}
		for path, folder := range mounted {
			value = strings.Replace(value, path+"/", folder+"/", 1)
		}
		env = append(env, v.Name+"="+value)
	}
	return env, nil
}

// fill writes the files of a Secret into a folder, once there is such a Secret.
func (p *pod) fill(ctx context.Context, folder string, from *corev1.SecretVolumeSource) error {
	data, err := p.pods.Secrets(ctx, p.namespace(), from.SecretName)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	for _, item := range from.Items {
		if err := os.WriteFile(filepath.Join(folder, item.Path), data[item.Key], 0o600); err != nil {
			return err
		}
	}
	return nil
}

// connect lays a wire from the bridge to the process's namespace, and waits until the process listens.
func (p *pod) connect(ctx context.Context, process *launch.Process, ports map[int]string) error {
	namespace := fmt.Sprintf("/proc/%d/ns/net", process.PID())
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if err := eventually(ctx, func() error {
		its, err := os.Readlink(namespace)
		if err == nil && its == ours {
			err = errors.New("it has no network namespace of its own yet")
		}
		return err
	}); err != nil {
		return err
	}
	outer, inner := fmt.Sprintf("pod%d", p.number), []string{"nsenter", "--net=" + namespace, "--", "ip"}
	for _, command := range [][]string{
		{"ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(process.PID())},
		{"ip", "link", "set", outer, "master", bridge, "up"},
		slices.Concat(inner, []string{"link", "set", "lo", "up"}),
		slices.Concat(inner, []string{"addr", "add", p.address() + "/16", "dev", "eth0"}),
		slices.Concat(inner, []string{"link", "set", "eth0", "up"}),
	} {
		if err := run(command...); err != nil {
			return err
		}
	}
	if _, answers := ports[3000]; !answers {
		return nil // it takes datagrams, and the suite sends some until one is answered
	}
	return eventually(ctx, func() error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(p.address(), "3000"))
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// ports are those that the echo server listens on and what it speaks there, by number. The manifests do not say.
func (p *pod) ports(env []string) map[int]string {
	has := func(name string) bool {
		return slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	ports := map[int]string{3000: "http", 3001: "http2"}
	switch {
	case has("GRPC_ECHO_SERVER"):
		ports = map[int]string{3000: "grpc"}
	case has("TCP_ECHO_SERVER"):
		ports = map[int]string{3000: "tcp"}
	case has("UDP_ECHO_SERVER"):
		ports = map[int]string{udpPort(env): "udp"}
	}
	if has("TLS_SERVER_CERT") {
		ports[8443] = "tcp"
	}
	return ports
}

// udpPort is where the echo server takes datagrams.
func udpPort(env []string) int {
	for _, e := range env {
		if number, ok := strings.CutPrefix(e, "UDP_PORT="); ok {
			if port, err := strconv.Atoi(number); err == nil {
				return port
			}
		}
	}
	return 8080
}

// declaration is the pod's file of services.d.
func (p *pod) declaration(service string, ports map[int]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "service: %s\ninstance: %s\n", service, p.name)
	if labels := p.deployment.Spec.Template.Labels; len(labels) > 0 {
		b.WriteString("labels:\n")
		for _, name := range slices.Sorted(maps.Keys(labels)) {
			fmt.Fprintf(&b, "  %q: %q\n", name, labels[name])
		}
	}
	b.WriteString("ports:\n")
	for _, number := range slices.Sorted(maps.Keys(ports)) {
		fmt.Fprintf(&b, "- {port: %d, protocol: %s, address: \"%s:%d\"}\n", number, ports[number], p.address(), number)
	}
	return b.String()
}

// show puts the pod on the shelf.
func (p *pod) show(ready bool) {
	state, phase := corev1.ConditionFalse, corev1.PodPending
	if ready {
		state, phase = corev1.ConditionTrue, corev1.PodRunning
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace(), Name: p.name, Labels: p.deployment.Spec.Template.Labels},
		Spec:       corev1.PodSpec{NodeName: p.pods.Node.Name, Containers: p.deployment.Spec.Template.Spec.Containers},
		Status: corev1.PodStatus{
			Phase: phase, PodIP: p.address(), PodIPs: []corev1.PodIP{{IP: p.address()}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: state}},
		},
	})
	if err != nil {
		panic(err) // a Pod is convertible
	}
	p.pods.Shelf.Put(&unstructured.Unstructured{Object: object})
}

// run runs a command.
func run(argv ...string) error {
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// eventually waits until check returns nil.
func eventually(ctx context.Context, check func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}
