package api

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// describe says what v is, for the end of "must be …, is …".
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case string:
		return "the string " + strconv.Quote(v)
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return "the number " + strconv.FormatInt(v, 10)
	case float64:
		return "the number " + strconv.FormatFloat(v, 'g', -1, 64)
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	}
	return fmt.Sprintf("%v", v)
}

// quoteHint tells how to write a string that YAML takes for something else.
func quoteHint(v any) string {
	switch v.(type) {
	case bool, int64, float64:
		return fmt.Sprintf(` (write "%v", with quotes)`, v)
	}
	return ""
}

// numberHint tells how to write a number that was quoted.
func numberHint(v any) string {
	if s, ok := v.(string); ok {
		if _, err := strconv.ParseInt(s, 10, 64); err == nil {
			return fmt.Sprintf(" (write %s, without quotes)", s)
		}
	}
	return ""
}

// didYouMean suggests a field that looks like what was written.
func didYouMean(k string, fields map[string]spec.Schema) string {
	for _, f := range sortedKeys(fields) {
		if strings.EqualFold(f, k) {
			return fmt.Sprintf("; did you mean %s?", f)
		}
	}
	for _, f := range sortedKeys(fields) {
		if near(f, k) {
			return fmt.Sprintf("; did you mean %s?", f)
		}
	}
	return ""
}

// near tells whether two names differ in case, or by two letters where they have five or more, or by one.
func near(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if a == b {
		return true
	}
	most := 2
	if min(len(a), len(b)) < 5 {
		most = 1
	}
	if min(len(a), len(b)) < 3 || len(a)-len(b) > most || len(b)-len(a) > most {
		return false
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)] <= most
}
