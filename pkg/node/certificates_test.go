package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestCertificatesAreOpenedHere: a node has those whose key is sealed to it, says which are not, and its key outlives
// the process.
func TestCertificatesAreOpenedHere(t *testing.T) {
	dir := t.TempDir()
	kept, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := kept.sealingKey(unsealed{})
	if err != nil {
		t.Fatal(err)
	}
	kept.db.Close()
	if kept, err = openStore(dir); err != nil {
		t.Fatal(err)
	}
	defer kept.db.Close()
	again, err := kept.sealingKey(unsealed{})
	if err != nil || !again.Equal(key) {
		t.Fatalf("the key is another after a restart: %v", err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(recipient []byte, gateway string) *snapshot.IngressCertificate {
		data, err := snapshot.SealKey(recipient, gateway, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
		if err != nil {
			t.Fatal(err)
		}
		return &snapshot.IngressCertificate{
			Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			Keys:  []*snapshot.SealedKey{{Recipient: recipient, Sealed: data}},
		}
	}
	other, err := snapshot.NewSealingKey()
	if err != nil {
		t.Fatal(err)
	}
	edge := exchange.ServiceName{Namespace: "shop", Name: "edge"}
	listener := func(name string, port, at uint32) *snapshot.IngressListener {
		return &snapshot.IngressListener{Name: name, Port: port, Tls: &snapshot.IngressTLS{Certificates: []uint32{at}}}
	}
	body := &snapshot.Ingress{
		Listeners:    []*snapshot.IngressListener{listener("mine", 1, 0), listener("others", 2, 1), listener("another-gateway", 3, 2), {Name: "plain", Port: 4}},
		Certificates: []*snapshot.IngressCertificate{sealed(key.PublicKey().Bytes(), "shop/edge"), sealed(other.PublicKey().Bytes(), "shop/edge"), sealed(key.PublicKey().Bytes(), "shop/other")},
	}
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	body.Listeners[0].Tls.Clients = &snapshot.IngressClients{Roots: roots}
	unreadable := listener("unreadable", 5, 0)
	unreadable.Tls.Clients = &snapshot.IngressClients{Roots: []byte("?")}
	body.Listeners = append(body.Listeners, unreadable)
	c := &certificates{key: again}
	bodies := map[exchange.ServiceName]*snapshot.Ingress{edge: body}
	if !c.take(bodies) || c.take(bodies) {
		t.Error("what changed is not told, or what did not")
	}
	for port, want := range map[uint32]string{1: "", 2: "not sealed to this node yet", 3: "for another gateway", 4: "", 5: "not readable"} {
		if got := c.problem(edge, body, port); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("port %d: %q", port, got)
		}
	}
	if len(c.of(edge, "mine")) != 1 || len(c.of(edge, "others")) != 0 || len(c.of(edge, "another-gateway")) != 0 {
		t.Error("it has others' certificates")
	}
	if c.clients(edge, "mine").Roots == nil || c.clients(edge, "plain").Roots != nil {
		t.Error("it asks other clients for certificates")
	}
	if len(c.of(edge, "unreadable")) != 0 {
		t.Error("anybody is let in where it is not known who may")
	}
}

// unsealed is a node without a key for its keys.
type unsealed struct{}

func (unsealed) Seal(_ string, plain []byte) []byte          { return plain }
func (unsealed) Open(_ string, value []byte) ([]byte, error) { return value, nil }
