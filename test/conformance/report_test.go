package conformance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/yaml"
)

// reportFile is the report that the suite wrote last, as it would be submitted.
const reportFile = "reports/experimental.yaml"

func readReport(t *testing.T, file string) (report confv1.ConformanceReport) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, yaml.Unmarshal(text, &report))
	return report
}

// summary is what a report says, a line for each profile and for each test that did not pass.
func summary(report confv1.ConformanceReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Gateway API %s, %s channel\n", report.GatewayAPIVersion, report.GatewayAPIChannel)
	line := func(profile, level string, s confv1.Status) {
		fmt.Fprintf(&b, "%s %s: %d passed, %d failed, %d skipped\n", profile, level, s.Statistics.Passed, s.Statistics.Failed, s.Statistics.Skipped)
		for _, name := range s.FailedTests {
			fmt.Fprintf(&b, "  failed: %s\n", name)
		}
		for _, name := range s.SkippedTests {
			fmt.Fprintf(&b, "  skipped: %s\n", name)
		}
	}
	slices.SortFunc(report.ProfileReports, func(a, b confv1.ProfileReport) int { return strings.Compare(a.Name, b.Name) }) // the suite has them in any order
	for _, p := range report.ProfileReports {
		line(p.Name, "core", p.Core)
		if p.Extended != nil {
			line(p.Name, "extended", p.Extended.Status)
			fmt.Fprintf(&b, "  not supported: %s\n", strings.Join(p.Extended.UnsupportedFeatures, ", "))
		}
	}
	return b.String()
}
