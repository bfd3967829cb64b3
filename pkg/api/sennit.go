package api

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// A JoinToken (sennit.dev/v1alpha1) lets one host join the cluster, once.
type JoinToken struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   JoinTokenSpec   `json:"spec,omitempty"`
	Status JoinTokenStatus `json:"status,omitempty"`
}

// JoinTokenSpec is what the token allows.
type JoinTokenSpec struct {
	Node     string           `json:"node"`
	Services []string         `json:"services,omitempty"`
	TTL      *metav1.Duration `json:"ttl,omitempty"`
	Attest   *JoinTokenAttest `json:"attest,omitempty"`
}

// JoinTokenAttest says which machines the token admits: those of a cloud, or those with a TPM.
type JoinTokenAttest struct {
	Provider        string   `json:"provider"`
	Accounts        []string `json:"accounts,omitempty"`
	Places          []string `json:"places,omitempty"`
	EndorsementKeys []string `json:"endorsementKeys,omitempty"`
	Authorities     string   `json:"authorities,omitempty"` // PEM
}

// JoinTokenStatus is what became of the token.
type JoinTokenStatus struct {
	Token   string       `json:"token,omitempty"` // only in the answer to the request that created it
	Expires *metav1.Time `json:"expires,omitempty"`
	UsedAt  *metav1.Time `json:"usedAt,omitempty"`
	UsedBy  string       `json:"usedBy,omitempty"`
}

// A Node (sennit.dev/v1alpha1) is a host that joined, as the registry knows it.
type Node struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   NodeSpec   `json:"spec,omitempty"`
	Status NodeStatus `json:"status,omitempty"`
}

// NodeSpec is what the node may do.
type NodeSpec struct {
	Services []string `json:"services,omitempty"`
}

// NodeStatus is what the controllers know of the node.
type NodeStatus struct {
	Liveness   string       `json:"liveness,omitempty"`
	Address    string       `json:"address,omitempty"`
	Generation int64        `json:"generation,omitempty"`
	Version    string       `json:"version,omitempty"`
	Instances  int64        `json:"instances,omitempty"`
	LastSeen   *metav1.Time `json:"lastSeen,omitempty"`
	Message    string       `json:"message,omitempty"`
}

// JoinTokenList and NodeList are what listing answers.
type JoinTokenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []JoinToken `json:"items"`
}

// NodeList is the list of Node.
type NodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Node `json:"items"`
}

// SwaggerDoc says what the fields mean, for `kubectl explain`.
func (JoinToken) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "JoinToken lets one host join the cluster, once. The token itself is shown only in the answer to the request that creates it.",
		"spec":   "What the token allows.",
		"status": "What became of the token.",
	}
}

// SwaggerDoc says what the fields mean.
func (JoinTokenSpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":         "JoinTokenSpec is what the token allows.",
		"node":     "Name that the host will have in the cluster. With attest, what the token is called: each node is named for its machine, such as aws-i-0abc.",
		"services": "Services that the host may run, each as namespace/name.",
		"ttl":      "How long the token may be used, such as 30m. One hour where it is not given.",
		"attest":   "Lets many hosts join with the token, each of which has to prove with the word of its cloud or TPM that it is such a machine.",
	}
}

// SwaggerDoc says what the fields mean.
func (JoinTokenAttest) SwaggerDoc() map[string]string {
	return map[string]string{
		"":                "JoinTokenAttest says which machines the token admits: those of a cloud, or those with a TPM 2.0.",
		"provider":        "The cloud, aws, gcp or azure; or tpm.",
		"accounts":        "AWS accounts, Google projects or Azure subscriptions whose machines are admitted. At least one, of a cloud.",
		"places":          "AWS regions or Google zones of the machines. Where it is not given, all.",
		"endorsementKeys": "With tpm: SHA-256 of each TPM's endorsement key, in hexadecimal, as `sennit join-token ek` says it on a host. Either these or authorities.",
		"authorities":     "With tpm: certificates of who certified the endorsement keys, in PEM. Every TPM of theirs is admitted.",
	}
}

// SwaggerDoc says what the fields mean.
func (JoinTokenStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":        "JoinTokenStatus is what became of the token.",
		"token":   "What to give to `sennit node --join`. Only in the answer to the request that created the token.",
		"expires": "When the token ends.",
		"usedAt":  "When a host joined with it.",
		"usedBy":  "The node that joined with it.",
	}
}

// SwaggerDoc says what the fields mean.
func (Node) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "Node is a host that joined the cluster. It is read-only: hosts join by token.",
		"spec":   "What the node may do.",
		"status": "What the controllers know of the node.",
	}
}

// SwaggerDoc says what the fields mean.
func (NodeSpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":         "NodeSpec is what the node may do.",
		"services": "Services that the node may run, each as namespace/name.",
	}
}

// SwaggerDoc says what the fields mean.
func (NodeStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "NodeStatus is what the controllers know of the node.",
		"liveness":   "alive, lost, or frozen (two hosts showed one identity).",
		"address":    "Where other nodes dial its lanes.",
		"generation": "Generation of its identity; each renewal is one more.",
		"version":    "Version of the program that it runs.",
		"instances":  "How many instances it has registered.",
		"lastSeen":   "When it last said that it is alive.",
		"message":    "What is wrong, and what to do.",
	}
}

// DeepCopyObject implements runtime.Object.
func (t *JoinToken) DeepCopyObject() runtime.Object {
	c := *t
	t.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec.Services = append([]string(nil), t.Spec.Services...)
	if t.Spec.TTL != nil {
		d := *t.Spec.TTL
		c.Spec.TTL = &d
	}
	if t.Spec.Attest != nil {
		a := *t.Spec.Attest
		a.Accounts, a.Places, a.EndorsementKeys = slices.Clone(a.Accounts), slices.Clone(a.Places), slices.Clone(a.EndorsementKeys)
		c.Spec.Attest = &a
	}
	c.Status.Expires, c.Status.UsedAt = t.Status.Expires.DeepCopy(), t.Status.UsedAt.DeepCopy()
	return &c
}

// DeepCopyObject implements runtime.Object.
func (n *Node) DeepCopyObject() runtime.Object {
	c := *n
	n.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec.Services = append([]string(nil), n.Spec.Services...)
	c.Status.LastSeen = n.Status.LastSeen.DeepCopy()
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *JoinTokenList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]JoinToken, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*JoinToken)
	}
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *NodeList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]Node, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*Node)
	}
	return &c
}
