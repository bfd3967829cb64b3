package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestKustomize(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, dir := range []string{"base", "overlay"} {
		if err := os.Mkdir(filepath.Join(h.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.file("base/shop.yaml", shop)
	h.file("base/kustomization.yaml", "resources: [shop.yaml]\n")
	h.file("overlay/kustomization.yaml", `resources: [../base]
namePrefix: eu-
labels:
- pairs: {region: eu}
patches:
- target: {kind: HTTPRoute, name: payments}
  patch: |-
    - {op: replace, path: /spec/rules/0/backendRefs/0/weight, value: 70}
configMapGenerator:
- name: notes
  literals: [owner=money]
  options: {disableNameSuffixHash: true}
`)
	h.file("built.yaml", h.ok("kustomize overlay", "name: eu-payments", "weight: 70"))
	h.ok("apply -f built.yaml", "service/eu-payments created", "httproute.gateway.networking.k8s.io/eu-payments created", "configmap/eu-notes created")
	h.ok("get httproute eu-payments -o jsonpath={.spec.rules[0].backendRefs[*].weight}", "70 10")
	h.ok("get svc,httproutes,configmaps -l region=eu", "service/eu-payments", "httproute.gateway.networking.k8s.io/eu-payments", "configmap/eu-notes")
	before := h.ok("get httproute eu-payments -o jsonpath={.metadata.resourceVersion}")
	h.ok("apply -k overlay", "service/eu-payments unchanged", "configmap/eu-notes unchanged")
	if after := h.ok("get httproute eu-payments -o jsonpath={.metadata.resourceVersion}"); after != before {
		t.Errorf("applying the same again stored version %s after %s", after, before)
	}
	h.ok("delete -k overlay", `service "eu-payments" deleted`)
	h.ok("get httproutes", "No resources found")
}
