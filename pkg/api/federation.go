package api

import (
	"net/url"
	"reflect"
	"slices"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// FederatedTrustDomains are the kind of FederatedTrustDomain.
var FederatedTrustDomains = &Kind{
	Group: "sennit.dev", Version: "v1alpha1", Name: "FederatedTrustDomain", Plural: "federatedtrustdomains", Singular: "federatedtrustdomain", Short: []string{"ftd"},
	HasStatus: true, Verbs: stored,
	model: "dev.sennit.v1alpha1.FederatedTrustDomain", typ: reflect.TypeFor[FederatedTrustDomain](),
}

// The profiles of a bundle endpoint, as SPIFFE Federation §5.2 names them.
const (
	ProfileSPIFFE = "https_spiffe"
	ProfileWeb    = "https_web"
)

// A FederatedTrustDomain (sennit.dev/v1alpha1) is another trust domain whose SVIDs processes of this mesh may verify. Lanes
// believe none of it.
type FederatedTrustDomain struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   FederatedTrustDomainSpec   `json:"spec,omitempty"`
	Status FederatedTrustDomainStatus `json:"status,omitempty"`
}

// FederatedTrustDomainSpec says which trust domain it is, and where its bundle is served.
type FederatedTrustDomainSpec struct {
	TrustDomain string         `json:"trustDomain"`
	Endpoint    BundleEndpoint `json:"endpoint"`
	// Bundle is the trust domain's bundle as JSON, in SPIFFE's format: what its endpoint is verified with the first time.
	Bundle string `json:"bundle,omitempty"`
}

// A BundleEndpoint is where a trust domain serves its bundle, and how it shows that it may.
type BundleEndpoint struct {
	URL      string `json:"url"`
	Profile  string `json:"profile"`
	SPIFFEID string `json:"spiffeID,omitempty"` // of https_spiffe
}

// FederatedTrustDomainStatus is what became of the document.
type FederatedTrustDomainStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// FederatedTrustDomainList is the list of FederatedTrustDomain.
type FederatedTrustDomainList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []FederatedTrustDomain `json:"items"`
}

const (
	maxEndpointURL = 1024

	// MaxTrustBundle bounds the bundle of another trust domain, in bytes of its JSON.
	MaxTrustBundle = 64 << 10
)

// federatedTrustDomain checks what the schema cannot say.
func (w *walker) federatedTrustDomain(u *unstructured.Unstructured) {
	spec := u.Object["spec"]
	endpoint := at(spec, "endpoint")
	domain, err := spiffeid.TrustDomainFromString(str(spec, "trustDomain"))
	if err != nil || domain.Name() != str(spec, "trustDomain") {
		w.add("spec.trustDomain", Invalid, "must be the name of a trust domain, as partner.example, without spiffe://, is %q", str(spec, "trustDomain"))
	}
	address := str(endpoint, "url")
	parsed, err := url.Parse(address)
	if err != nil || parsed.Scheme != "https" || parsed.Hostname() == "" || parsed.User != nil || parsed.Fragment != "" || len(address) > maxEndpointURL {
		w.add("spec.endpoint.url", Invalid, "must be an address as https://spiffe.partner.example:8443/, without user and fragment, of at most %d bytes", maxEndpointURL)
	}
	profile, id, bundle := str(endpoint, "profile"), str(endpoint, "spiffeID"), str(spec, "bundle")
	w.oneOf("spec.endpoint.profile", profile, ProfileSPIFFE, ProfileWeb)
	switch {
	case profile == ProfileSPIFFE && id == "":
		w.add("spec.endpoint.spiffeID", Required, "is required with profile: https_spiffe")
	case profile == ProfileWeb && id != "":
		w.add("spec.endpoint.spiffeID", Invalid, "must not be given with profile: https_web, which verifies the host's name")
	case id != "":
		if _, err := spiffeid.FromString(id); err != nil {
			w.add("spec.endpoint.spiffeID", Invalid, "must be a SPIFFE ID: %v", err)
		}
	}
	switch {
	case bundle == "" && profile == ProfileSPIFFE:
		w.add("spec.bundle", Required, "is required with profile: https_spiffe: the endpoint is verified with it. Ask for it where you trust who answers, not at the endpoint")
	case bundle == "":
	case len(bundle) > MaxTrustBundle:
		w.add("spec.bundle", Invalid, "must have at most %d bytes", MaxTrustBundle)
	case domain.IsZero():
	default:
		if parsed, err := spiffebundle.Parse(domain, []byte(bundle)); err != nil {
			w.add("spec.bundle", Invalid, "must be a bundle as SPIFFE has it, a JSON object with keys: %v", err)
		} else if profile == ProfileSPIFFE && len(parsed.X509Authorities()) == 0 {
			w.add("spec.bundle", Invalid, "must have a key with use: x509-svid, or it verifies no endpoint")
		}
	}
}

// DeepCopyObject implements runtime.Object.
func (f *FederatedTrustDomain) DeepCopyObject() runtime.Object {
	c := *f
	f.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Status.Conditions = slices.Clone(f.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *FederatedTrustDomainList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]FederatedTrustDomain, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*FederatedTrustDomain)
	}
	return &c
}
