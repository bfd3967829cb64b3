package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// markKey makes the marks of one run, so that they tell nothing about a value but whether it is another.
var markKey = sync.OnceValue(rand.Text)

// masked is a document as people compare it: in place of each value of a Secret a mark, which is the same for the same
// value in one run.
func masked(m map[string]any) map[string]any {
	u := (&unstructured.Unstructured{Object: m}).DeepCopy()
	if k := api.ByKind(u.GetAPIVersion(), u.GetKind()); k == nil || !k.Sealed {
		return m
	}
	data, _ := u.Object["data"].(map[string]any)
	for key, value := range data {
		mac := hmac.New(sha256.New, []byte(markKey()))
		fmt.Fprint(mac, value)
		data[key] = fmt.Sprintf("(not shown; %x)", mac.Sum(nil)[:4])
	}
	unstructured.RemoveNestedField(u.Object, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")
	return u.Object
}
