package apiserver

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/bus"
)

const secretsPath = "/api/v1/namespaces/shop/secrets"

func testSealer(t *testing.T, key string) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher([]byte(strings.Repeat(key, 32)))
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return sealer
}

// TestSecretsAreSealedInTheLog: what a Secret holds, and the copy of it that kubectl writes into an annotation, are
// neither in the log nor in what the audit shows of it, and are there for who reads the API; also after a restart, a
// deletion, and a rollback.
func TestSecretsAreSealedInTheLog(t *testing.T) {
	log, statuses := newMemory(), newMemory()
	with := func(c *Config) { c.Sealer = testSealer(t, "k") }
	w := startOn(t, log, statuses, with)
	const hidden = "correct horse battery staple"
	encoded := base64.StdEncoding.EncodeToString([]byte(hidden))
	body := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"data\":\"` + encoded + `\"}","a":"b"}},"stringData":{"k":"` + hidden + `"},"data":{"other":"AAAA"}}`
	code, made, _ := w.do("POST", secretsPath, "application/json", body)
	if code != 201 {
		t.Fatal(code, made)
	}
	version := made["metadata"].(object)["resourceVersion"].(string)
	if code, got, _ := w.do("PATCH", secretsPath+"/s", "application/merge-patch+json", `{"data":{"k":"Zm9v"}}`); code != 200 || got["data"].(object)["k"] != "Zm9v" {
		t.Fatal(code, got)
	}
	again := startOn(t, log, statuses, with)
	again.must(200, "PUT", secretsPath+"/s?rollbackTo="+version, "", "")
	_, got, _ := again.do("GET", secretsPath+"/s", "", "")
	data := got["data"].(object)
	annotations := got["metadata"].(object)["annotations"].(object)
	if data["other"] != "AAAA" || data["k"] != encoded || annotations["a"] != "b" || !strings.Contains(annotations["kubectl.kubernetes.io/last-applied-configuration"].(string), encoded) {
		t.Errorf("after a restart: %v", got)
	}
	if got["stringData"] != nil || got["type"] != "Opaque" {
		t.Errorf("%v", got)
	}
	if code, got, _ := again.do("DELETE", secretsPath+"/s", "", ""); code != 200 {
		t.Fatal(code, got)
	}
	for _, e := range log.entries {
		written, err := ReadWritten(e)
		if err != nil {
			t.Fatal(err)
		}
		shown, err := written.Document.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{hidden, encoded, "Zm9v"} {
			if bytes.Contains(e.Data, []byte(text)) || bytes.Contains(shown, []byte(text)) {
				t.Errorf("the log shows %q: %s", text, e.Data)
			}
		}
	}
}

// TestSealedStaysWithItsDocument: what is sealed opens in no other document, and with no other key.
func TestSealedStaysWithItsDocument(t *testing.T) {
	log := newMemory()
	w := startOn(t, log, newMemory(), func(c *Config) { c.Sealer = testSealer(t, "k") })
	for _, name := range []string{"a", "b"} {
		if code, got, _ := w.do("POST", secretsPath, "application/json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"`+name+`"},"data":{"k":"`+base64.StdEncoding.EncodeToString([]byte(name))+`"}}`); code != 201 {
			t.Fatal(code, got)
		}
	}
	var of []bus.Entry
	for _, e := range log.entries {
		if strings.Contains(e.Subject, ".secrets.") {
			of = append(of, e)
		}
	}
	whole, err := w.server.readWhole(of[0])
	if err != nil || whole.Document.Object["data"].(object)["k"] != "YQ==" {
		t.Fatal(whole, err)
	}
	sealed := func(e bus.Entry) string {
		_, rest, _ := strings.Cut(string(e.Data), `"sealed":"`)
		text, _, _ := strings.Cut(rest, `"`)
		return text
	}
	swapped := of[0]
	swapped.Data = []byte(strings.Replace(string(of[0].Data), sealed(of[0]), sealed(of[1]), 1))
	if whole, err := w.server.readWhole(swapped); err == nil {
		t.Errorf("what was sealed in b opened in a: %v", whole.Document.Object["data"])
	}
	other := &Server{cfg: Config{Sealer: testSealer(t, "l")}}
	if _, err := other.readWhole(of[0]); err == nil {
		t.Error("opened with another key")
	}
	none := start(t, nil)
	if code, got, _ := none.do("POST", secretsPath, "application/json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}`); code < 400 {
		t.Error("stored without a key to seal with", code, got)
	}
}

// TestImmutableData: of Secrets and ConfigMaps that say so; and the type of a Secret is for good.
func TestImmutableData(t *testing.T) {
	w := start(t, func(c *Config) { c.Sealer = testSealer(t, "k") })
	for _, tt := range []struct{ plural, body, patch string }{
		{"secrets", `{"kind":"Secret","type":"a"`, `{"type":"b"}`},
		{"secrets", `{"kind":"Secret","immutable":true,"data":{"a":"AAAA"}`, `{"data":{"a":"AAAB"}}`},
		{"configmaps", `{"kind":"ConfigMap","immutable":true,"data":{"a":"b"}`, `{"data":{"a":"c"}}`},
		{"configmaps", `{"kind":"ConfigMap","immutable":true,"data":{"a":"b"}`, `{"immutable":false}`},
	} {
		path := "/api/v1/namespaces/shop/" + tt.plural
		if code, got, _ := w.do("POST", path, "application/json", tt.body+`,"apiVersion":"v1","metadata":{"name":"s"}}`); code != 201 {
			t.Fatal(code, got)
		}
		if code, got, _ := w.do("PATCH", path+"/s", "application/merge-patch+json", tt.patch); code != 422 {
			t.Errorf("%s became %s: %d %v", tt.body, tt.patch, code, got)
		}
		if code, got, _ := w.do("PATCH", path+"/s", "application/merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`); code != 200 {
			t.Error(code, got)
		}
		w.do("DELETE", path+"/s", "", "")
	}
}
