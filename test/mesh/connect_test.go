package mesh

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestConnectThroughAProxy: a service that is a proxy gets CONNECT where its port in services.d says that it takes it, and
// a route names the method; before the route, and to a service that does not say so, there is no tunnel.
func TestConnectThroughAProxy(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Nodes: []string{"one", "two"}, Services: []string{"default/web", "default/proxy", "default/plain"}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	m.must("listen", err)
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n\r\nto %s: ", r.Host)
		_, _ = io.Copy(conn, rw)
	})}
	go func() { _ = proxy.Serve(l) }()
	t.Cleanup(func() { _ = proxy.Close() })
	addresses := map[string]string{}
	for name, more := range map[string]string{"proxy": ", connect: true", "plain": ""} {
		m.Write("two", fmt.Sprintf("service: default/%s\nports: [{port: 80, protocol: http, address: %q%s}]\n", name, l.Addr(), more))
		m.must("apply", m.Documents(fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {ports: [{port: 80, appProtocol: http}]}}", name)))
		addresses[name] = m.Listen("one", "default/web", "default/"+name+":80")
		m.AwaitAnswer("one", addresses[name], "")
	}
	connect := func(name string) (status int, said string) {
		conn, err := m.Dial(t.Context(), "one", addresses[name])
		m.must("dial", err)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(conn, "CONNECT host.example:443 HTTP/1.1\r\nHost: host.example:443\r\n\r\n")
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
		m.must("read the answer", err)
		if response.StatusCode != http.StatusOK {
			return response.StatusCode, ""
		}
		fmt.Fprint(conn, "hello")
		m.must("end", conn.(*net.TCPConn).CloseWrite())
		all, err := io.ReadAll(reader)
		m.must("read the tunnel", err)
		return response.StatusCode, string(all)
	}
	if status, _ := connect("proxy"); status != http.StatusNotImplemented {
		t.Errorf("without a route: %d", status)
	}
	for name := range addresses {
		m.must("apply", m.Documents(fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: %s}, spec: {parentRefs: [{group: "", kind: Service, name: %s}], `+
			`rules: [{matches: [{method: CONNECT}], backendRefs: [{name: %s, port: 80}]}]}}`, name, name, name)))
	}
	m.Eventually("the route is in force", func(context.Context) error {
		if status, said := connect("proxy"); status != http.StatusOK || said != "to host.example:443: hello" {
			return fmt.Errorf("%d %q", status, said)
		}
		return nil
	})
	if status, _ := connect("plain"); status != http.StatusNotImplemented {
		t.Errorf("a process that does not say that it takes CONNECT: %d", status)
	}
}
