package mesh

import (
	"net/http"
	"testing"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

// TestSigningKeyRotation replaces the key that signs configuration, under load: no request fails, though the controller is
// killed in each phase, and what was stored before is signed by the new key, so that a node that restarts without a
// controller knows its services. A node that was away for all of it comes back by itself, and changes reach all.
func TestSigningKeyRotation(t *testing.T) {
	signingKeyRotation(t, false)
}

// TestSigningKeyRotationWithAnOfflineRoot, which is asked first. The controller is killed while it waits for people too.
func TestSigningKeyRotationWithAnOfflineRoot(t *testing.T) {
	signingKeyRotation(t, true)
}

func signingKeyRotation(t *testing.T, offline bool) {
	t.Helper()
	if testing.Short() {
		t.Skip("waits until certificates end")
	}
	t.Parallel()
	m, address := threeNodes(t, Config{CertificateTTL: turnover, Waits: true})
	var root *ca.OfflineRoot
	if offline {
		root = m.offlineRoot("sennit.local")
		m.acceptAnswer(m.askRoots(report.RootRequest{NextRoot: string(root.CertificatePEM())}, root)[0])
		m.awaitPhase(report.Renewing)
		m.awaitPhase("")
	}
	before, load := m.withoutThree(address)
	if offline {
		answer := m.askRoots(report.RootRequest{Signing: true}, root)[0]
		m.crashController() // it waits for people
		if now, err := m.authority(t.Context()); err != nil || now.Rotation != nil || now.NextSigning == "" || now.SigningKey != before.SigningKey {
			t.Errorf("before the root has answered: %+v, %v", now, err)
		}
		m.acceptAnswer(answer)
	} else {
		m.must("rotate", launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/rotate", report.Rotate{Of: "signing key"}, nil))
	}
	m.crashController()
	renewing := m.awaitPhase(report.Renewing)
	if renewing.SigningKey == before.SigningKey || renewing.Rotation.Of != "signing key" || renewing.Rotation.From != before.SigningKey {
		t.Errorf("renewing: %+v, %+v", renewing, renewing.Rotation)
	}
	m.crashController()
	m.AwaitAnswers(load, "the load goes on", "v2", 20)
	m.awaitPhase("")
	m.crashController()
	after, err := m.authority(t.Context())
	m.must("what signs", err)
	if after.SigningKey != renewing.SigningKey || after.Root.Key != before.Root.Key || !offline && after.Intermediate.Key != before.Intermediate.Key {
		t.Errorf("at the end: %+v, before %+v", after, before)
	}
	m.RestartNode("three")
	m.AwaitAnswers(load, "three is called again", "v3", 20)
	m.noFailures(load, "in the rotation")

	m.StopPart(m.Controller())
	m.Kill(m.Node("one"))
	m.RestartNode("one")
	m.AwaitAnswer("one", address, "v2", "v3")
	m.RestartController()
	m.MustApply(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: orders}, spec: {parentRefs: [{group: "", kind: Service, name: orders}], rules: [` +
		`{matches: [{path: {value: /old}}]}, {backendRefs: [{name: orders, port: 80}]}]}}`)
	m.gone("one", address, "/old")
}
