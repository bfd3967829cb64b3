package main

import (
	"testing"

	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
)

// An admin gives an operator a role, and the operator sees what he may and gets no further.
func TestRolesByKubectl(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ok("create namespace shop", "created")
	h.ok("auth whoami", "tester", rbac.Masters)
	h.ok("auth can-i delete nodes", "yes")
	h.ok("get clusterroles", "view", "edit", "admin", "cluster-admin")
	h.ok("create rolebinding vera --clusterrole=view --user=vera -n shop", "rolebinding.rbac.authorization.k8s.io/vera created")
	h.ok("create role tls --verb=get --resource=secrets --resource-name=tls -n shop", "created")
	h.ok("create rolebinding vera-tls --role=tls --user=vera -n shop", "created")
	h.ok("create clusterrolebinding watchers --clusterrole=view --group=oidc:watchers", "created")
	h.ok("describe rolebinding vera -n shop", "ClusterRole", "view", "vera")
	h.ok("get rolebindings -n shop -o wide", "ClusterRole/view", "vera")
	h.ok("apply -n shop --server-side -f "+h.file("b.yaml", "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: otto}\n"+
		"subjects: [{kind: User, name: otto}]\nroleRef: {kind: ClusterRole, name: edit}\n"), "serverside-applied")

	v := h.as("vera")
	v.ok("auth whoami", "vera")
	v.ok("auth can-i list httproutes -n shop", "yes")
	v.fails("auth can-i list secrets -n shop", "no")
	v.ok("auth can-i get secrets/tls -n shop", "yes")
	v.fails("auth can-i list httproutes", "no")
	v.ok("auth can-i --list -n shop", "httproutes.gateway.networking.k8s.io", "get list watch")
	v.ok("get svc -n shop", "No resources found")
	v.fails("get secrets -n shop", `Error from server (Forbidden): secrets is forbidden: operator "vera" cannot list resource "secrets"`)
	v.fails("create rolebinding more --clusterrole=cluster-admin --user=vera -n shop", "cannot create resource")
	v.fails("get svc -n shop --as otto", "impersonation is not supported")
	h.ok("delete rolebinding vera vera-tls -n shop", "deleted")
	v.fails("get svc -n shop", "Forbidden")
}
