package api

import (
	"encoding/base64"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxData is how many bytes the values of a Secret or of a ConfigMap may have together, as in Kubernetes.
const maxData = 1 << 20

// secret checks a Secret and moves its stringData to data. No message has a value in it.
func (w *walker) secret(u *unstructured.Unstructured) {
	if str(u.Object, "type") == "" {
		u.Object["type"] = string(corev1.SecretTypeOpaque)
	}
	data, _ := u.Object["data"].(map[string]any)
	if plain, _ := u.Object["stringData"].(map[string]any); len(plain) > 0 {
		if data == nil {
			data = map[string]any{}
			u.Object["data"] = data
		}
		for key, value := range plain {
			data[key] = base64.StdEncoding.EncodeToString([]byte(value.(string)))
		}
	}
	delete(u.Object, "stringData")
	w.dataKeys("data", data)
	w.dataSize(w.binary("data", data))
	if str(u.Object, "type") == string(corev1.SecretTypeTLS) {
		for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if _, have := data[key]; !have {
				w.add(field("data", key), Required, "is required in a Secret of type %s", corev1.SecretTypeTLS)
			}
		}
	}
}

func (w *walker) configMap(u *unstructured.Unstructured) {
	data, _ := u.Object["data"].(map[string]any)
	binary, _ := u.Object["binaryData"].(map[string]any)
	w.dataKeys("data", data)
	w.dataKeys("binaryData", binary)
	size := w.binary("binaryData", binary)
	for key, value := range data {
		if size += len(value.(string)); has(binary, key) {
			w.add(field("binaryData", key), DuplicateValue, "must not be a key of data too")
		}
	}
	w.dataSize(size)
}

func (w *walker) dataKeys(path string, data map[string]any) {
	for _, key := range sortedKeys(data) {
		for _, problem := range validation.IsConfigMapKey(key) {
			w.add(field(path, key), Invalid, "%s", problem)
		}
	}
}

// binary checks values in base64, and returns how many bytes they stand for.
func (w *walker) binary(path string, data map[string]any) (size int) {
	for _, key := range sortedKeys(data) {
		value, err := base64.StdEncoding.DecodeString(data[key].(string))
		if err != nil {
			w.add(field(path, key), Invalid, "must be base64 (RFC 4648 §4)")
		}
		size += len(value)
	}
	return size
}

func (w *walker) dataSize(size int) {
	if size > maxData {
		w.add("data", TooMany, "must have at most %d bytes together, has %d", maxData, size)
	}
}

// Frozen says why a document must not become another that is valid; it is empty where it may.
func Frozen(k *Kind, was, now *unstructured.Unstructured) string {
	if (k == RoleBindings || k == ClusterRoleBindings) && fmt.Sprint(was.Object["roleRef"]) != fmt.Sprint(now.Object["roleRef"]) {
		return "roleRef: must stay as it is; delete the binding and make it again"
	}
	if k != Secret && k != ConfigMap {
		return ""
	}
	if before, after := str(was.Object, "type"), str(now.Object, "type"); before != after {
		return fmt.Sprintf("type: must stay %s; delete the Secret and make it again", before)
	}
	frozen, _ := was.Object["immutable"].(bool)
	if !frozen {
		return ""
	}
	for _, f := range []string{"immutable", "data", "binaryData"} {
		if fmt.Sprint(was.Object[f]) != fmt.Sprint(now.Object[f]) {
			return f + ": must stay as it is, for the document is immutable; delete it and make it again"
		}
	}
	return ""
}
