package apiserver

import (
	"encoding/json"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"

	discovery "k8s.io/api/apidiscovery/v2"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// discovery answers what clients ask before they ask for documents. It reports whether the path was one of these.
func (s *Server) discovery(w http.ResponseWriter, r *http.Request) bool {
	path := strings.TrimSuffix(r.URL.Path, "/")
	answer := func(v any) bool {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s.fail(w, r, failure(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "only GET is served here"))
			return true
		}
		if w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", "application/json")
		}
		_ = json.NewEncoder(w).Encode(v)
		return true
	}
	switch {
	case path == "/version":
		return answer(s.versionInfo())
	case path == "/api" || path == "/apis":
		if aggregated(r) {
			w.Header().Set("Content-Type", aggregatedType)
			return answer(aggregate(path == "/api"))
		}
		if path == "/api" {
			return answer(metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
		}
		return answer(metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: groups()})
	case strings.HasPrefix(path, "/openapi/"):
		return s.serveOpenAPI(w, r, path)
	case path == "":
		return answer(metav1.RootPaths{Paths: []string{"/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"}})
	}
	parts := strings.Split(path, "/")[1:]
	switch {
	case len(parts) == 2 && parts[0] == "api" && parts[1] == "v1":
		return answer(resources("", "v1"))
	case len(parts) == 2 && parts[0] == "apis":
		for _, g := range groups() {
			if g.Name == parts[1] {
				g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
				return answer(g)
			}
		}
	case len(parts) == 3 && parts[0] == "apis":
		if l := resources(parts[1], parts[2]); len(l.APIResources) > 0 {
			return answer(l)
		}
	default:
		return false
	}
	s.fail(w, r, noSuchPath(r.URL.Path))
	return true
}

// versionInfo says which Kubernetes' conventions clients may expect; gitVersion says whose program it is.
func (s *Server) versionInfo() version.Info {
	return version.Info{
		Major: "1", Minor: "37", GitVersion: "v1.37.0+sennit." + strings.NewReplacer("+", ".", "_", "-").Replace(s.cfg.Version),
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// groups lists the API groups beside the core one.
func groups() []metav1.APIGroup {
	var out []metav1.APIGroup
	for _, k := range served() {
		if k.Group == "" || slices.ContainsFunc(out, func(g metav1.APIGroup) bool { return g.Name == k.Group }) {
			continue
		}
		v := metav1.GroupVersionForDiscovery{GroupVersion: k.APIVersion(), Version: k.Version}
		out = append(out, metav1.APIGroup{Name: k.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
	}
	return out
}

// served are all kinds that have a path.
func served() []*api.Kind { return append(api.Kinds(), api.Reviews()...) }

// categories are what clients may name for several kinds at once: those that say what the mesh does.
func categories(k *api.Kind) []string {
	if k.Group == rbacv1.GroupName || !slices.Contains(k.Verbs, "list") {
		return nil
	}
	return []string{"sennit"}
}

// statusVerbs are what a status subresource answers to.
var statusVerbs = metav1.Verbs{"get", "patch", "update"}

// resources lists the kinds of one group and version.
func resources(group, version string) metav1.APIResourceList {
	l := metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: strings.TrimPrefix(group+"/"+version, "/"),
		APIResources: []metav1.APIResource{},
	}
	for _, k := range served() {
		if k.Group != group || k.Version != version {
			continue
		}
		l.APIResources = append(l.APIResources, metav1.APIResource{
			Name: k.Plural, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Name, Verbs: k.Verbs, ShortNames: k.Short,
			Categories: categories(k),
		})
		if k.HasStatus {
			l.APIResources = append(l.APIResources, metav1.APIResource{
				Name: k.Plural + "/status", Namespaced: k.Namespaced, Kind: k.Name, Verbs: statusVerbs,
			})
		}
	}
	return l
}

const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// aggregated tells whether the client takes all of discovery in one answer.
func aggregated(r *http.Request) bool {
	for clause := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err == nil && t == "application/json" && params["as"] == "APIGroupDiscoveryList" && params["v"] == "v2" {
			return true
		}
	}
	return false
}

// aggregate lists all groups with all their kinds: the core group, or all others.
func aggregate(core bool) discovery.APIGroupDiscoveryList {
	l := discovery.APIGroupDiscoveryList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"}}
	for _, k := range served() {
		if (k.Group == "") != core {
			continue
		}
		at := slices.IndexFunc(l.Items, func(g discovery.APIGroupDiscovery) bool { return g.Name == k.Group })
		if at < 0 {
			at = len(l.Items)
			l.Items = append(l.Items, discovery.APIGroupDiscovery{
				ObjectMeta: metav1.ObjectMeta{Name: k.Group},
				Versions:   []discovery.APIVersionDiscovery{{Version: k.Version, Freshness: discovery.DiscoveryFreshnessCurrent}},
			})
		}
		scope := discovery.ScopeCluster
		if k.Namespaced {
			scope = discovery.ScopeNamespace
		}
		kind := metav1.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Name}
		d := discovery.APIResourceDiscovery{
			Resource: k.Plural, ResponseKind: &kind, Scope: scope, SingularResource: k.Singular, Verbs: k.Verbs,
			ShortNames: k.Short, Categories: categories(k),
		}
		if k.HasStatus {
			d.Subresources = []discovery.APISubresourceDiscovery{{Subresource: "status", ResponseKind: &kind, Verbs: statusVerbs}}
		}
		v := &l.Items[at].Versions[0]
		v.Resources = append(v.Resources, d)
	}
	return l
}
