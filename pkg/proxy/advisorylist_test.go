package proxy

import "github.com/sennit-mesh/sennit/pkg/snapshot"

// advisories are what TestAdvisories sends. by signs tokens, of which good is one.
func advisories(by *issuer, good string) []advisory {
	noAdmin, onlyPublic := denying(pathsOf("/admin")), letting(pathsOf("/public"))
	noAdmins, onlyUsers := denying(headed("x-role", "admin")), letting(headed("x-role", "user"))
	var all []advisory
	refused := func(id, product string, policies []*snapshot.AuthorizationPolicy, path string, fields ...string) {
		all = append(all, advisory{id: id, product: product, policies: policies, http1: get1(path, fields...), http2: get2(path, lowered(fields)...), answer: "403"})
	}
	malformed := func(id, product, http1, http2 string) {
		all = append(all, advisory{id: id, product: product, policies: noAdmin, http1: http1, http2: http2, answer: "400", answer2: "PROTOCOL_ERROR"})
	}

	// What servers take for /admin, and what they do not take for /public.
	for _, of := range []struct{ id, product, path string }{
		{"CVE-2019-9901, CVE-2025-32431", "Envoy, Traefik", "/public/../admin"},
		{"CVE-2020-8595", "Istio", "/admin?a"},
		{"CVE-2021-31920, CVE-2026-26205", "Istio, OPA", "//admin"},
		{"CVE-2021-29492, CVE-2024-10005", "Envoy, Consul", "/public%2F..%2Fadmin"},
		{"CVE-2021-29492", "Envoy", "/public%5C..%5Cadmin"},
		{"CVE-2021-41773, CVE-2025-47952", "Apache httpd, Traefik", "/public/.%2e/admin"},
		{"CVE-2000-0884", "IIS", "/public/..%c0%afadmin"},
		{"CVE-2024-38474", "Apache httpd", "/admin%3Fa"},
		{"CVE-2025-66490", "Traefik", "/admin%00"},
		{"CVE-2026-27587", "Caddy", "/%61dmin/%78"},
		{"CVE-2026-73511, CVE-2026-73553", "Envoy", "/admin;a=b/x"},
		{"CVE-2026-73551", "Envoy", "/public/..;a=b/admin"},
		{"GHSA-3q34-rx83-r6mq", "Heimdall", "/public/%2e%2e%2fadmin"},
		{"encoded fragments", "several", "/admin%23"},
		{"encoded twice", "several", "/%2561dmin"},
	} {
		refused(of.id, of.product, noAdmin, of.path)
		refused(of.id, of.product, onlyPublic, of.path)
	}
	refused("CVE-2025-46821", "Envoy", noAdmin, "/admin/*")
	refused("CVE-2023-27487", "Envoy", noAdmin, "/admin", "X-Envoy-Original-Path: /public")
	refused("CVE-2023-27487", "Envoy", onlyPublic, "/admin", "X-Envoy-Original-Path: /public")
	all = append(all, advisory{
		id: "redirects that are followed within", product: "several", policies: noAdmin, http1: get1("/away"), http2: get2("/away"), answer: "303", heard: "GET /away",
	}, advisory{
		id: "targets in absolute form", product: "several", policies: noAdmin, http1: "GET http://orders/admin HTTP/1.1\r\nHost: orders\r\n\r\n", answer: "403",
	}, advisory{
		id: "methods in small letters", product: "several", policies: denying(&snapshot.AuthorizationOperation{Methods: []string{"DELETE"}}),
		http1: "delete / HTTP/1.1\r\nHost: orders\r\n\r\n", http2: head2(":method: delete", ":scheme: http", ":authority: orders", ":path: /"), answer: "403",
	}, advisory{
		id: "the server as a whole", product: "several", policies: onlyPublic,
		http1: "OPTIONS * HTTP/1.1\r\nHost: orders\r\n\r\n", http2: head2(":method: OPTIONS", ":scheme: http", ":authority: orders", ":path: *"), answer: "403",
	})
	malformed("CVE-2021-32779, CVE-2021-39156, CVE-2023-45539, CVE-2023-47106", "Envoy, Istio, HAProxy, Traefik", get1("/admin#a"), get2("/admin#a"))
	malformed("CVE-2021-42013", "Apache httpd", get1("/public/%%32%65%%32%65/admin"), get2("/public/%%32%65%%32%65/admin"))
	malformed("CVE-2026-33186", "gRPC-Go", get1("admin"), head2(":method: POST", ":scheme: http", ":authority: orders", ":path: admin", "content-type: application/grpc"))
	malformed("CVE-2021-39240", "HAProxy", "", head2(":method: GET", ":scheme: http://orders/admin?", ":authority: orders", ":path: /public"))
	malformed("CVE-2021-39241", "HAProxy", "GET /admin HTTP/1.1 /public HTTP/1.1\r\nHost: orders\r\n\r\n", head2(":method: GET /admin", ":scheme: http", ":authority: orders", ":path: /public"))
	malformed("CVE-2023-27491", "Envoy", get1("/public\x01"), get2("/public HTTP/1.1\r\nx: y"))
	malformed("CVE-2023-35944", "Envoy", "", head2(":method: GET", ":scheme: htTp", ":authority: orders", ":path: /public"))
	malformed("bytes beyond ASCII", "several", get1("/adm\xc4\xb1n"), get2("/adm\xc4\xb1n"))

	// Headers.
	refused("CVE-2020-25017, CVE-2026-26308, CVE-2024-10006", "Envoy, Consul", noAdmins, "/", "X-Role: user", "X-Role: admin")
	refused("CVE-2020-25017, CVE-2026-26308, CVE-2024-10006", "Envoy, Consul", noAdmins, "/", "X-Role: admin", "X-Role: user")
	refused("CVE-2020-25017, CVE-2026-26308, CVE-2024-10006", "Envoy, Consul", noAdmins, "/", "X-Role: user, admin")
	refused("CVE-2020-25017", "Envoy", onlyUsers, "/", "X-Role: user", "X-Role: admin")
	refused("CVE-2026-39858", "Traefik", noAdmins, "/", "X_Role: admin")
	refused("CVE-2026-39858", "Traefik", onlyUsers, "/", "X-Role: user", "X_Role: admin")
	refused("CVE-2026-88011", "Traefik", noAdmins, "/", "X.Role: admin")
	refused("CVE-2026-88011", "Traefik", onlyUsers, "/", "X-Role: user", "X.Role: admin")
	onText := []*snapshot.AuthorizationPolicy{{Origin: "shop/p", Deny: true, Rules: []*snapshot.AuthorizationRule{{When: []string{`'x-role' in request.headers && request.headers['x-role'].matches('^adm')`}}}}}
	refused("CVE-2026-73552", "Envoy", onText, "/", "X-Role: admin\xff")
	malformed("CVE-2019-9900", "Envoy", get1("/", "X-Role: user\x00admin"), get2("/", "x-role: user\x00admin"))
	malformed("CVE-2023-25725", "HAProxy", get1("/", ": a", "X-Role: admin"), "")
	all = append(all, advisory{
		id: "CVE-2013-5704", product: "Apache httpd", policies: noAdmins, heard: "POST /",
		http1: "POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nTrailer: X-Role\r\n\r\n0\r\nX-Role: admin\r\n\r\n", answer: "200",
		http2: head2(":method: POST", ":scheme: http", ":authority: orders", ":path: /", "trailer: x-role", "+x-role: admin"),
	})
	byCondition := all[len(all)-1]
	byCondition.policies = []*snapshot.AuthorizationPolicy{{Origin: "shop/p", Deny: true, Rules: []*snapshot.AuthorizationRule{{When: []string{`'x-role' in request.headers`}}}}}
	all = append(all, byCondition)

	// Hosts.
	hosts := &snapshot.AuthorizationOperation{Hosts: []string{"admin.example.com"}}
	for i := range 120 { // CVE-2026-27588 came with the 101st
		hosts.Hosts = append(hosts.Hosts, "h"+string(rune('a'+i%26))+string(rune('a'+i/26))+".example.com")
	}
	for _, host := range []string{"ADMIN.Example.com", "admin.example.com:80", "admin.example.com.", "admin.example.com.:80", "admin.example.com.."} {
		all = append(all, advisory{
			id: "CVE-2021-39155, CVE-2026-27588", product: "Istio, Caddy", policies: denying(hosts), host: true, answer: "403",
			http1: "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n", http2: head2(":method: GET", ":scheme: http", ":authority: "+host, ":path: /"),
		})
	}
	for _, host := range []string{"orders/?", "orders#", "user@admin.example.com", "orders,admin.example.com", "admin%2eexample.com", "admin.example.com\\"} {
		malformed("CVE-2026-49468 and its like", "LiteLLM", "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n", head2(":method: GET", ":scheme: http", ":authority: "+host, ":path: /"))
	}
	malformed("CVE-2021-39242", "HAProxy", "GET http://orders/ HTTP/1.1\r\nHost: admin.example.com\r\n\r\n", get2("/", "host: admin.example.com"))
	malformed("two hosts", "several", get1("/", "Host: admin.example.com"), get2("/", "host: orders", "host: admin.example.com"))

	// Policies together.
	all = append(all, advisory{
		id: "CVE-2021-36213", product: "Consul", http1: get1("/public"), http2: get2("/public"), answer: "403",
		policies: append([]*snapshot.AuthorizationPolicy{{Origin: "shop/default-deny"}}, noAdmin...),
	})

	// End users.
	bearer := "Authorization: Bearer " + good
	other := &snapshot.Authentication{Origin: "shop/users", Optional: true, Issuers: []*snapshot.Issuer{{Issuer: "https://other.example", Audiences: by.policy.Issuers[0].Audiences, Keys: by.policy.Issuers[0].Keys}}, Sources: by.policy.Sources}
	keyless := &snapshot.Authentication{Origin: "shop/users", Issuers: []*snapshot.Issuer{{Issuer: "https://id.example", Audiences: []string{"shop"}}}, Sources: by.policy.Sources}
	all = append(all, advisory{
		id: "CVE-2021-21378", product: "Envoy", users: other, http1: get1("/", bearer), http2: get2("/", lowered([]string{bearer})...), answer: "401",
	}, advisory{
		id: "CVE-2026-31837", product: "Istio", users: keyless, http1: get1("/", bearer), http2: get2("/", lowered([]string{bearer})...), answer: "401",
	}, advisory{
		id: "CVE-2023-3518", product: "Consul", users: by.policy, policies: []*snapshot.AuthorizationPolicy{allowing("shop/other", false, nil)},
		http1: get1("/", bearer), http2: get2("/", lowered([]string{bearer})...), answer: "403",
	}, advisory{
		id: "CVE-2026-33433, CVE-2026-39858, CVE-2026-88011", product: "Traefik", users: by.policy, answer: "200", heard: "GET / alice",
		http1: get1("/", bearer, "x-user: root", "X_User: root", "X.User: root"), http2: get2("/", append(lowered([]string{bearer}), "x-user: root", "x_user: root", "x.user: root")...),
	}, advisory{
		id: "CVE-2021-32813, CVE-2022-31813, CVE-2024-45410", product: "Traefik, Apache httpd", users: by.policy, answer: "200", heard: "GET / alice",
		http1: get1("/", bearer, "Connection: X-User"),
	}, advisory{
		id: "CVE-2013-5704", product: "Apache httpd", users: by.policy, answer: "200", heard: "POST / alice",
		http1: "POST / HTTP/1.1\r\nHost: orders\r\n" + bearer + "\r\nTransfer-Encoding: chunked\r\nTrailer: X-User\r\n\r\n0\r\nX-User: root\r\n\r\n",
		http2: head2(":method: POST", append([]string{":scheme: http", ":authority: orders", ":path: /", "trailer: x-user"}, append(lowered([]string{bearer}), "+x-user: root")...)...),
	})
	return all
}

// lowered are fields with names in small letters, as HTTP/2 has them.
func lowered(fields []string) (all []string) {
	for _, f := range fields {
		b := []byte(f)
		for i := 0; i < len(b) && b[i] != ':'; i++ {
			if 'A' <= b[i] && b[i] <= 'Z' {
				b[i] += 'a' - 'A'
			}
		}
		all = append(all, string(b))
	}
	return all
}
