package api

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
)

// An ExternalService (sennit.dev/v1alpha1) is a host outside the mesh that services call by the document's name.
type ExternalService struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ExternalServiceSpec   `json:"spec,omitempty"`
	Status ExternalServiceStatus `json:"status,omitempty"`
}

// ExternalServiceSpec says which host it is, and how nodes speak to it.
type ExternalServiceSpec struct {
	Host             string              `json:"host"` // a DNS name in lower case, or an IP address
	Port             int32               `json:"port"`
	Protocol         string              `json:"protocol,omitempty"`
	TLS              *ExternalServiceTLS `json:"tls,omitempty"` // nil only before defaults are set
	AllowedAddresses []string            `json:"allowedAddresses,omitempty"`
}

// ExternalServiceTLS says whether the node speaks TLS to the host, and whom it expects.
type ExternalServiceTLS struct {
	Mode       string `json:"mode"`
	ServerName string `json:"serverName,omitempty"`
	CABundle   string `json:"caBundle,omitempty"`
}

// What the protocol and the mode of TLS can be.
const (
	ProtocolHTTP  = "HTTP"
	ProtocolHTTP2 = "HTTP2"
	ProtocolTCP   = "TCP"
	TLSSimple     = "Simple"
	TLSNone       = "None"
)

// ExternalServiceStatus is what became of the document.
type ExternalServiceStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ExternalServiceList is the list of ExternalService.
type ExternalServiceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ExternalService `json:"items"`
}

const (
	maxCABundle         = 256 << 10
	maxAllowedAddresses = 64
)

// externalService checks what the schema cannot say, and says what goes without saying: that the node speaks TLS.
func (w *walker) externalService(u *unstructured.Unstructured) {
	spec, _ := u.Object["spec"].(map[string]any)
	host := str(spec, "host")
	if _, err := netip.ParseAddr(host); err != nil && len(validation.IsDNS1123Subdomain(host)) > 0 {
		w.add("spec.host", Invalid, "must be the name of one host, as api.example.com, or an IP address, without scheme, port and path, is %q", host)
	}
	w.port("spec.port", spec, "port")
	w.oneOf("spec.protocol", str(spec, "protocol"), ProtocolHTTP, ProtocolHTTP2, ProtocolTCP)
	if !has(spec, "tls") || spec["tls"] == nil {
		spec["tls"] = map[string]any{"mode": TLSSimple}
	}
	tls := spec["tls"]
	mode := str(tls, "mode")
	w.oneOf("spec.tls.mode", mode, TLSSimple, TLSNone)
	name, bundle := str(tls, "serverName"), str(tls, "caBundle")
	for field, given := range map[string]bool{"spec.tls.serverName": name != "", "spec.tls.caBundle": bundle != ""} {
		if given && mode == TLSNone {
			w.add(field, Invalid, "must not be given with mode: None, which verifies nothing")
		}
	}
	if _, err := netip.ParseAddr(name); name != "" && err != nil && len(validation.IsDNS1123Subdomain(name)) > 0 {
		w.add("spec.tls.serverName", Invalid, "must be the name that the host's certificate has, is %q", name)
	}
	if problem := checkBundle(bundle); problem != "" {
		w.add("spec.tls.caBundle", Invalid, "%s", problem)
	}
	allowed := items(spec, "allowedAddresses")
	w.between("spec.allowedAddresses", "items", int64(len(allowed)), 0, maxAllowedAddresses)
	for i, a := range allowed {
		text, _ := a.(string)
		if p, err := netip.ParsePrefix(text); err != nil || p != p.Masked() || p.Addr().Is4In6() {
			w.add(index("spec.allowedAddresses", i), Invalid, "must be a prefix of IP addresses such as 192.0.2.0/24 or 192.0.2.7/32, with zeros behind it, is %q", text)
		}
	}
}

// checkBundle says what is wrong with certificates in PEM; nothing where there are none.
func checkBundle(bundle string) string {
	if bundle == "" {
		return ""
	}
	if len(bundle) > maxCABundle {
		return "must have at most 262144 bytes"
	}
	certificates := 0
	for rest := []byte(bundle); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "must hold certificates in PEM and nothing else, holds a block of type " + strings.ToValidUTF8(block.Type, "")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "must hold certificates in PEM: " + err.Error()
		}
		certificates++
	}
	if certificates == 0 {
		return "must hold certificates in PEM, holds none"
	}
	return ""
}

// SwaggerDoc says what the fields mean, for `kubectl explain`.
func (ExternalService) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "ExternalService is a host outside the mesh. Services call it by the document's name, and nodes that are its egress connect to it.",
		"spec":   "Which host it is, and how nodes speak to it.",
		"status": "What became of the document.",
	}
}

// SwaggerDoc says what the fields mean.
func (ExternalServiceSpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":                 "ExternalServiceSpec says which host it is, and how nodes speak to it.",
		"host":             "DNS name of the host, which the egress node resolves, or its IP address. Requests have it as their Host.",
		"port":             "Port of the host, and the one that callers name.",
		"protocol":         "HTTP (HTTP/1.1) or HTTP2 (HTTP/2, and gRPC with it), which routes and quotas look at, or TCP (bytes).",
		"tls":              "Whether the egress node speaks TLS to the host. Without it, it does, and verifies the host's name.",
		"allowedAddresses": "Prefixes of the IP addresses that the host may have; others are not connected to. Without it all are allowed but those of the egress host itself, of its link, and of clouds' metadata.",
	}
}

// SwaggerDoc says what the fields mean.
func (ExternalServiceTLS) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "ExternalServiceTLS says whether the egress node speaks TLS to the host, and whom it expects.",
		"mode":       "Simple: TLS 1.2 or newer, verified. None: what callers send is passed on as it is.",
		"serverName": "Name that the host's certificate has and that is sent as SNI. The host where it is not given.",
		"caBundle":   "Certificates in PEM that the host's certificate must chain to. The roots of the egress node's host where it is not given.",
	}
}

// SwaggerDoc says what the fields mean.
func (ExternalServiceStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "ExternalServiceStatus is what became of the document.",
		"conditions": "Accepted: whether it is in effect. Programmed: whether a node carries calls to it.",
	}
}

// DeepCopyObject implements runtime.Object.
func (e *ExternalService) DeepCopyObject() runtime.Object {
	c := *e
	e.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	if e.Spec.TLS != nil {
		tls := *e.Spec.TLS
		c.Spec.TLS = &tls
	}
	c.Spec.AllowedAddresses = slices.Clone(e.Spec.AllowedAddresses)
	c.Status.Conditions = slices.Clone(e.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *ExternalServiceList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]ExternalService, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*ExternalService)
	}
	return &c
}
