package mesh

import (
	"net/http"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

// offlineRoot makes a root whose key no controller has.
func (m *Mesh) offlineRoot(trustDomain string) *ca.OfflineRoot {
	m.t.Helper()
	root, _, err := ca.NewOfflineRoot("sennit", trustDomain, func() ([]byte, error) { return []byte("four words of your choice"), nil }, time.Now())
	m.must("make a root", err)
	return root
}

// askRoots asks for another root to follow, and carries the request to the roots whose keys are kept elsewhere. It returns
// their answers.
func (m *Mesh) askRoots(of report.RootRequest, roots ...*ca.OfflineRoot) (answers []report.RootFile) {
	m.t.Helper()
	var file report.RootFile
	m.must("ask the roots", launch.Call(m.t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/request", of, &file))
	for _, root := range roots {
		request, err := ca.ParseRequest([]byte(file.PEM))
		m.must("read the request", err)
		request.Agreed, _, err = root.Other(request)
		m.must("read the other root", err)
		answer, err := root.Sign(request, 0, time.Now())
		m.must("sign the request", err)
		answers = append(answers, report.RootFile{PEM: string(answer)})
	}
	return answers
}

func (m *Mesh) acceptAnswer(answer report.RootFile) {
	m.t.Helper()
	m.must("accept the root's answer", launch.Call(m.t.Context(), m.Socket(), http.MethodPost, report.PathAuthority+"/accept", answer, nil))
}

// TestTheRootMovesAwayAndBack under load: from the controller to elsewhere, there to another, and back to the controller. No
// request fails, though the controller is killed whenever it waits for something, and a node that was away for all three
// comes back by itself.
func TestTheRootMovesAwayAndBack(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until certificates end")
	}
	t.Parallel()
	m, address := threeNodes(t, Config{CertificateTTL: turnover, Waits: true})
	before, load := m.withoutThree(address)
	domain := "sennit.local"
	first, second := m.offlineRoot(domain), m.offlineRoot(domain)
	keys := map[string]bool{before.Root.Key: true}
	for _, step := range []struct {
		name    string
		of      report.RootRequest
		roots   []*ca.OfflineRoot // that sign
		offline bool              // at the end
	}{
		{"away", report.RootRequest{NextRoot: string(first.CertificatePEM())}, []*ca.OfflineRoot{first}, true},
		{"from there to another", report.RootRequest{NextRoot: string(second.CertificatePEM())}, []*ca.OfflineRoot{second, first}, true},
		{"and back", report.RootRequest{Online: true}, []*ca.OfflineRoot{second}, false},
	} {
		for _, answer := range m.askRoots(step.of, step.roots...) {
			m.crashController() // it waits for people
			if now, err := m.authority(t.Context()); err != nil || now.Rotation != nil || now.Next == nil || len(now.Next.Awaits) == 0 {
				t.Errorf("%s: before all roots have answered: %+v, %v", step.name, now, err)
			}
			m.acceptAnswer(answer)
		}
		renewing := m.awaitPhase(report.Renewing)
		if keys[renewing.Root.Key] || renewing.Offline != step.offline {
			t.Errorf("%s: %+v signs", step.name, renewing)
		}
		keys[renewing.Root.Key] = true
		m.crashController()
		m.AwaitAnswers(load, "the load goes on", "v2", 20)
		m.awaitPhase("")
	}
	m.RestartNode("three")
	m.AwaitAnswers(load, "three is called again", "v3", 20)
	m.noFailures(load, "in the rotation")
}
