package api

// What Gateway API's rules for BackendTLSPolicies need (rules).

func sameTarget(a, b any) bool {
	return str(a, "group") == str(b, "group") && str(a, "kind") == str(b, "kind") && str(a, "name") == str(b, "name")
}

// targetsNamed: of several references to one target, all or none name a section.
func targetsNamed(v any) bool {
	return pairs(v, func(a, b any) bool {
		return !sameTarget(a, b) || (str(a, "sectionName") == "") == (str(b, "sectionName") == "")
	})
}

func targetsUnique(v any) bool {
	return pairs(v, func(a, b any) bool { return !sameTarget(a, b) || str(a, "sectionName") != str(b, "sectionName") })
}

// pairs reports whether every two of a list are as they should be.
func pairs(v any, ok func(a, b any) bool) bool {
	for i, a := range v.([]any) {
		for _, b := range v.([]any)[:i] {
			if !ok(a, b) {
				return false
			}
		}
	}
	return true
}

func believesRefs(v any) bool  { return len(items(v, "caCertificateRefs")) > 0 }
func believesKnown(v any) bool { return str(v, "wellKnownCACertificates") != "" }
