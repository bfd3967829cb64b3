package compile

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// What a class says of its features is sorted, as Gateway API demands, known to it, and written once.
func TestFeaturesOfAClass(t *testing.T) {
	conditions := []v1.Condition{{Type: "Accepted", Status: v1.ConditionTrue, Reason: "Accepted"}}
	now := v1.NewTime(time.Unix(1, 0))
	status, changed := MergeClassStatus(gatewayv1.GatewayClassStatus{}, conditions, now)
	if !changed || len(status.SupportedFeatures) < 3 || len(status.SupportedFeatures) > 64 {
		t.Fatalf("%v %v", changed, status.SupportedFeatures)
	}
	if !slices.IsSortedFunc(status.SupportedFeatures, func(a, b gatewayv1.SupportedFeature) int { return strings.Compare(string(a.Name), string(b.Name)) }) {
		t.Errorf("not sorted: %v", status.SupportedFeatures)
	}
	known := features.SetsToNamesSet(features.AllFeatures)
	for _, f := range status.SupportedFeatures {
		if !known.Has(features.FeatureName(f.Name)) {
			t.Errorf("Gateway API knows no feature %s", f.Name)
		}
	}
	if _, changed := MergeClassStatus(status, conditions, v1.NewTime(time.Unix(2, 0))); changed {
		t.Error("is written again")
	}
	older := status
	older.SupportedFeatures = older.SupportedFeatures[1:] // of a version before
	if again, changed := MergeClassStatus(older, conditions, v1.NewTime(time.Unix(2, 0))); !changed || !again.Conditions[0].LastTransitionTime.Equal(&now) {
		t.Errorf("%v %v", changed, again.Conditions)
	}
}
