package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/gateway-api/pkg/consts"
)

// channel is the one of Gateway API's release channels from which the controller's schemas are made (internal/crdschema).
const channel = "experimental"

// A Front is the API that the suite is given: the controller's, and what only a Kubernetes cluster has beside it.
type Front struct {
	Deployments, Pods, ServiceAccounts, Slices *Shelf
	// Log is the file of a pod's output.
	Log func(namespace, pod string) (string, bool)

	controller *http.Client
	at         string // the controller's URL
	pass       http.Handler
}

// NewFront returns a front of the controller that config reaches.
func NewFront(config *rest.Config) (*Front, error) {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("reach the controller: %w", err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		return nil, fmt.Errorf("reach the controller: %w", err)
	}
	return &Front{
		Deployments:     &Shelf{Kind: schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, Plural: "deployments"},
		Pods:            &Shelf{Kind: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, Plural: "pods"},
		ServiceAccounts: &Shelf{Kind: schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}, Plural: "serviceaccounts"},
		Slices:          &Shelf{Kind: schema.GroupVersionKind{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"}, Plural: "endpointslices"},
		controller:      &http.Client{Transport: transport},
		at:              config.Host,
		pass: &httputil.ReverseProxy{
			Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
			Transport:     transport,
			FlushInterval: -1, // watches
		},
	}, nil
}

// Start serves the front on loopback until the server is closed.
func (f *Front) Start() *httptest.Server {
	mux := http.NewServeMux()
	f.Deployments.Serve(mux, "/apis/apps/v1")
	f.Pods.Serve(mux, "/api/v1")
	f.ServiceAccounts.Serve(mux, "/api/v1")
	f.Slices.Serve(mux, "/apis/discovery.k8s.io/v1")
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods/{name}/log", f.log)
	mux.HandleFunc("GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions", f.crds)
	mux.HandleFunc("GET /apis", f.groups)
	mux.HandleFunc("GET /api", f.plain)
	f.serveResources(mux, "/api/v1", f.Pods, f.ServiceAccounts)
	f.serveResources(mux, "/apis/apps/v1", f.Deployments)
	f.serveResources(mux, "/apis/apiextensions.k8s.io/v1")
	mux.Handle("/", f.pass)
	return httptest.NewServer(mux)
}

// plain passes on a request for discovery that shall be answered in the older of its two forms, which is easier to add to.
func (f *Front) plain(w http.ResponseWriter, r *http.Request) {
	r.Header.Set("Accept", "application/json")
	f.pass.ServeHTTP(w, r)
}

// groups adds the groups that the controller does not have.
func (f *Front) groups(w http.ResponseWriter, r *http.Request) {
	list := metav1.APIGroupList{}
	if err := f.read("/apis", &list); err != nil {
		refuse(w, apierrors.NewInternalError(err))
		return
	}
	for _, name := range []string{"apps", "apiextensions.k8s.io"} {
		v1 := metav1.GroupVersionForDiscovery{GroupVersion: name + "/v1", Version: "v1"}
		list.Groups = append(list.Groups, metav1.APIGroup{Name: name, Versions: []metav1.GroupVersionForDiscovery{v1}, PreferredVersion: v1})
	}
	answer(w, http.StatusOK, list)
}

// serveResources adds the kinds of shelves to those that the controller has of a group.
func (f *Front) serveResources(mux *http.ServeMux, group string, shelves ...*Shelf) {
	mux.HandleFunc("GET "+group, func(w http.ResponseWriter, _ *http.Request) {
		list := metav1.APIResourceList{}
		if err := f.read(group, &list); err != nil { // the controller has none of it
			list = metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: group[len("/apis/"):]}
		}
		for _, s := range shelves {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: s.Plural, Namespaced: true, Kind: s.Kind.Kind, Verbs: metav1.Verbs{"create", "delete", "get", "list", "patch", "update"},
			})
		}
		if group == "/apis/apiextensions.k8s.io/v1" {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: "customresourcedefinitions", Kind: "CustomResourceDefinition", Verbs: metav1.Verbs{"list"},
			})
		}
		answer(w, http.StatusOK, list)
	})
}

// crds lists the kinds of Gateway API that the controller serves as the CRDs that a cluster would have for them.
func (f *Front) crds(w http.ResponseWriter, _ *http.Request) {
	resources := metav1.APIResourceList{}
	if err := f.read("/apis/gateway.networking.k8s.io/v1", &resources); err != nil {
		refuse(w, apierrors.NewInternalError(err))
		return
	}
	list := apiextensionsv1.CustomResourceDefinitionList{
		TypeMeta: metav1.TypeMeta{Kind: "CustomResourceDefinitionList", APIVersion: "apiextensions.k8s.io/v1"},
		Items:    []apiextensionsv1.CustomResourceDefinition{},
	}
	for _, k := range resources.APIResources {
		if slices.Contains([]byte(k.Name), '/') {
			continue
		}
		crd := apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{
			Name:        k.Name + ".gateway.networking.k8s.io",
			Annotations: map[string]string{consts.BundleVersionAnnotation: consts.BundleVersion, consts.ChannelAnnotation: channel},
		}}
		list.Items = append(list.Items, crd)
	}
	answer(w, http.StatusOK, list)
}

// log answers with all that a pod has written. The suite asks for what was written since a time; all that it looks for in
// there is of its own making, and so more does no harm.
func (f *Front) log(w http.ResponseWriter, r *http.Request) {
	name, known := f.Log(r.PathValue("namespace"), r.PathValue("name"))
	if !known {
		f.Pods.missing(w, r)
		return
	}
	file, err := os.Open(name)
	if err != nil {
		refuse(w, apierrors.NewInternalError(err))
		return
	}
	defer file.Close()
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.Copy(w, file)
}

// read asks the controller.
func (f *Front) read(path string, into any) error {
	request, err := http.NewRequest(http.MethodGet, f.at+path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	response, err := f.controller.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}
