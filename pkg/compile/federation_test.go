package compile

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/api"
)

func foreign(name, domain string, age int) *api.FederatedTrustDomain {
	return &api.FederatedTrustDomain{
		ObjectMeta: v1.ObjectMeta{Name: name, CreationTimestamp: v1.NewTime(time.Unix(int64(1000-age), 0))},
		Spec:       api.FederatedTrustDomainSpec{TrustDomain: domain},
	}
}

func TestForeignDomains(t *testing.T) {
	in := Input{TrustDomain: "mesh.example", Foreign: []*api.FederatedTrustDomain{
		foreign("own", "mesh.example", 9), foreign("young", "a.example", 1), foreign("old", "a.example", 2), foreign("b", "b.example", 0),
	}}
	var got []string
	for _, f := range ForeignDomains(in) {
		got = append(got, f.Name)
	}
	if fmt.Sprint(got) != "[old b]" {
		t.Errorf("in effect: %v", got)
	}
	out := Compile(in)
	for name, want := range map[string]string{"own": "Invalid", "young": "Conflicted", "old": "Accepted", "b": "Accepted"} {
		if c := out.Foreign[types.NamespacedName{Name: name}]; len(c) != 1 || c[0].Reason != want {
			t.Errorf("%s: %+v, want %s", name, c, want)
		}
	}
	for i := range MaxForeign + 1 {
		in.Foreign = append(in.Foreign, foreign(fmt.Sprint("many-", i), fmt.Sprintf("d%d.example", i), -i))
	}
	if got := len(ForeignDomains(in)); got != MaxForeign {
		t.Errorf("%d are in effect, want %d", got, MaxForeign)
	}
	if c := Compile(in).Foreign[types.NamespacedName{Name: fmt.Sprint("many-", MaxForeign)}]; len(c) != 1 || c[0].Reason != "Invalid" {
		t.Errorf("one too many: %+v", c)
	}
}
