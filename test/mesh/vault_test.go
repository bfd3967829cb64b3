package mesh

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"testing"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/upstreamca/vault/vaulttest"
)

// TestVaultTakesOver lets a real OpenBao certify the intermediate of a mesh under load. The controller is killed meanwhile; what it
// is refused changes nothing; and it goes back to its own root. No request fails.
func TestVaultTakesOver(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until certificates end")
	}
	t.Parallel()
	s := vaulttest.Serve(t)
	mount, root := s.Mounts()
	login, roleID, secretID := s.AppRole(mount)
	rootFile := s.File("root.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})))
	settings := s.File("upstream.yaml", fmt.Sprintf(`
vault:
  url: %s
  caFile: %s
  mount: %s
  rootFile: %s
  appRole: {mount: %s, roleIDFile: %s, secretIDFile: %s}
`, s.URL, s.CAFile, mount, rootFile, login, roleID, secretID))
	m, address := threeNodes(t, Config{CertificateTTL: turnover, Waits: true, ControllerFlags: []string{"--upstream-ca", settings}})
	load := m.Load(LoadConfig{Node: "one", Address: address, Connections: 2, Methods: []string{http.MethodGet, http.MethodPost}, Pace: slowPace})
	rotate := func(ownRoot bool) error {
		return launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/rotate", report.Rotate{Of: "intermediate", OwnRoot: ownRoot}, nil)
	}

	m.must("let it certify the intermediate", rotate(false))
	m.awaitPhase(report.Renewing)
	m.crashController()
	now := m.awaitPhase("")
	if now.Upstream == nil || len(now.Upstream.Roots) != 1 || now.Upstream.Roots[0].Name != "Example root" {
		t.Errorf("what signs hangs on %+v", now.Upstream)
	}
	m.AwaitAnswers(load, "the load goes on", "v2", 20)

	s.Do("POST", "sys/policies/acl/"+mount, map[string]any{"policy": `path "of/another" { capabilities = ["read"] }`})
	if err := rotate(false); err == nil {
		t.Error("a role without the policy got an intermediate")
	}
	if after, err := m.authority(t.Context()); err != nil || after.Rotation != nil || after.Upstream == nil || after.Intermediate.Key != now.Intermediate.Key || after.Failure == "" {
		t.Errorf("after a refusal: %+v, %v", after, err)
	}
	m.AwaitAnswers(load, "the load goes on", "v3", 20)

	m.must("go back to the own root", rotate(true))
	if last := m.awaitPhase(""); last.Upstream != nil {
		t.Errorf("after going back: %+v", last.Upstream)
	}
	m.AwaitAnswers(load, "the load goes on", "v2", 20)
	m.noFailures(load, "while authorities changed")
}
