package analyze

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/sennit-mesh/sennit/pkg/compile"
)

// plaintext finds services that take callers without an identity: that is for a time.
func (f *findings) plaintext(services []*corev1.Service) {
	for _, s := range services {
		if s.Annotations[compile.PlaintextAnnotation] == "permissive" {
			f.add(Finding{
				Level: Warning, Code: CodePlaintext, Document: s.Namespace + "/service/" + s.Name, Field: "metadata.annotations[" + compile.PlaintextAnnotation + "]",
				Message: "callers without an identity are taken where services.d names an address for them",
				Remedy:  "say strict once `sennit authz plaintext` lists nobody any more",
			})
		}
	}
}
