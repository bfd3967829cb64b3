package main

import (
	"errors"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// sameDocument tells whether two revisions say the same, and are managed by the same.
func sameDocument(a, b *unstructured.Unstructured) bool {
	return equality.Semantic.DeepEqual(timeless(a).Object, timeless(b).Object)
}

// timeless drops when managers last wrote, which a dry run gives too.
func timeless(u *unstructured.Unstructured) *unstructured.Unstructured {
	c := u.DeepCopy()
	fields := c.GetManagedFields()
	for i := range fields {
		fields[i].Time = nil
	}
	c.SetManagedFields(fields)
	return c
}

// unmanaged is a document without the record of who manages which field, which people do not read.
func unmanaged(u *unstructured.Unstructured) *unstructured.Unstructured {
	c := u.DeepCopy()
	c.SetManagedFields(nil)
	return c
}

// asList is one document as it is, or several as a List that can be applied again.
func asList(all []*unstructured.Unstructured) map[string]any {
	if len(all) == 1 {
		return unmanaged(all[0]).Object
	}
	return wholeList(all)
}

func wholeList(all []*unstructured.Unstructured) map[string]any {
	items := make([]any, len(all))
	for i, u := range all {
		items[i] = unmanaged(u).Object
	}
	return map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
}

// causes are what a server's error says of single fields.
func causes(err error) []metav1.StatusCause {
	var st apierrors.APIStatus
	if !errors.As(err, &st) || st.Status().Details == nil {
		return nil
	}
	return st.Status().Details.Causes
}
