package controller

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
)

// Whoever has stored a document and asks at once is answered with it.
func TestQuestionsSeeWhatIsStored(t *testing.T) {
	t.Parallel()
	c, _ := start(t, t.TempDir())
	r := reach(t, c)
	_, admin := token(t, c, "root", rbac.Masters)
	for i := range 20 {
		name := fmt.Sprintf("orders%d", i)
		service := fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q},"spec":{"ports":[{"port":80}]}}`, name)
		if code, text := r.ask(admin, "POST", "/api/v1/namespaces/default/services", service); code != http.StatusCreated {
			t.Fatalf("%d %s", code, text)
		}
		if code, text := r.ask(admin, "POST", report.PathAnalyze, ""); code != http.StatusOK || !strings.Contains(text, "default/service/"+name+`"`) {
			t.Fatalf("analyze does not know %s: %d %s", name, code, text)
		}
		if code, text := r.ask(admin, "POST", report.PathAuthzCheck, fmt.Sprintf(`{"from":"default/web","to":"default/%s"}`, name)); code != http.StatusOK {
			t.Fatalf("authz check does not know %s: %d %s", name, code, text)
		}
	}
}
