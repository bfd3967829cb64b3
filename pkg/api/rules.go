package api

import (
	"regexp"
	"strings"
	"time"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// rules holds, by their message, the rules that Gateway API's schemas state in CEL (x-kubernetes-validations).
// They are written in Go so that no CEL interpreter is linked; a test fails where a schema has a rule that is
// not here. A rule sees values that have passed the schema, with defaults set.
var rules = map[string]func(v any) bool{
	"sectionName or port must be specified when parentRefs includes 2 or more references to the same parent": parentsNamed,
	"sectionName or port must be unique when parentRefs includes 2 or more references to the same parent":    parentsUnique,
	"Rule name must be unique within the route": func(v any) bool {
		names := map[string]bool{}
		return !some(v.([]any), func(r any) bool {
			name := str(r, "name")
			again := name != "" && names[name]
			names[name] = true
			return again
		})
	},
	"While 16 rules and 64 matches per rule are allowed, the total number of matches across all rules in a route must be less than 128": func(v any) bool {
		n := 0
		for _, r := range v.([]any) {
			n += len(items(r, "matches"))
		}
		return n <= 128
	},
	"RequestRedirect filter must not be used together with backendRefs": func(v any) bool {
		return len(items(v, "backendRefs")) == 0 || !some(items(v, "filters"), func(f any) bool { return has(f, "requestRedirect") })
	},
	"When using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified": func(v any) bool {
		return prefixMatched(v, v, "requestRedirect")
	},
	"When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified": func(v any) bool {
		return prefixMatched(v, v, "urlRewrite")
	},
	"Within backendRefs, when using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified": func(v any) bool {
		return backendsPrefixMatched(v, "requestRedirect")
	},
	"Within backendRefs, When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified": func(v any) bool {
		return backendsPrefixMatched(v, "urlRewrite")
	},
	"Must have port for Service reference": func(v any) bool {
		return str(v, "group") != "" || str(v, "kind") != "Service" || has(v, "port")
	},
	"May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both": func(v any) bool {
		return count(v, "RequestRedirect") == 0 || count(v, "URLRewrite") == 0
	},
	"CORS filter cannot be repeated":                   func(v any) bool { return count(v, "CORS") <= 1 },
	"RequestHeaderModifier filter cannot be repeated":  func(v any) bool { return count(v, "RequestHeaderModifier") <= 1 },
	"ResponseHeaderModifier filter cannot be repeated": func(v any) bool { return count(v, "ResponseHeaderModifier") <= 1 },
	"RequestRedirect filter cannot be repeated":        func(v any) bool { return count(v, "RequestRedirect") <= 1 },
	"URLRewrite filter cannot be repeated":             func(v any) bool { return count(v, "URLRewrite") <= 1 },

	"AbsoluteTimeout must be specified when cookie lifetimeType is Permanent": func(v any) bool {
		return str(at(v, "cookieConfig"), "lifetimeType") != "Permanent" || has(v, "absoluteTimeout")
	},
	"cookieConfig can only be set with type Cookie":         func(v any) bool { return !has(v, "cookieConfig") || str(v, "type") == "Cookie" },
	"grpc must be specified when protocol is set to 'GRPC'": func(v any) bool { return str(v, "protocol") != "GRPC" || has(v, "grpc") },
	"protocol must be 'GRPC' when grpc is set":              func(v any) bool { return str(v, "protocol") == "GRPC" || !has(v, "grpc") },
	"http must be specified when protocol is set to 'HTTP'": func(v any) bool { return str(v, "protocol") != "HTTP" || has(v, "http") },
	"protocol must be 'HTTP' when http is set":              func(v any) bool { return str(v, "protocol") == "HTTP" || !has(v, "http") },

	"filter.externalAuth must be nil if the filter.type is not ExternalAuth":                                                                               onlyFor("externalAuth", "ExternalAuth"),
	"filter.externalAuth must be specified for ExternalAuth filter.type":                                                                                   neededFor("externalAuth", "ExternalAuth"),
	"filter.cors must be nil if the filter.type is not CORS":                                                                                               onlyFor("cors", "CORS"),
	"filter.cors must be specified for CORS filter.type":                                                                                                   neededFor("cors", "CORS"),
	"filter.requestHeaderModifier must be nil if the filter.type is not RequestHeaderModifier":                                                             onlyFor("requestHeaderModifier", "RequestHeaderModifier"),
	"filter.requestHeaderModifier must be specified for RequestHeaderModifier filter.type":                                                                 neededFor("requestHeaderModifier", "RequestHeaderModifier"),
	"filter.responseHeaderModifier must be nil if the filter.type is not ResponseHeaderModifier":                                                           onlyFor("responseHeaderModifier", "ResponseHeaderModifier"),
	"filter.responseHeaderModifier must be specified for ResponseHeaderModifier filter.type":                                                               neededFor("responseHeaderModifier", "ResponseHeaderModifier"),
	"filter.requestMirror must be nil if the filter.type is not RequestMirror":                                                                             onlyFor("requestMirror", "RequestMirror"),
	"filter.requestMirror must be specified for RequestMirror filter.type":                                                                                 neededFor("requestMirror", "RequestMirror"),
	"filter.requestRedirect must be nil if the filter.type is not RequestRedirect":                                                                         onlyFor("requestRedirect", "RequestRedirect"),
	"filter.requestRedirect must be specified for RequestRedirect filter.type":                                                                             neededFor("requestRedirect", "RequestRedirect"),
	"filter.urlRewrite must be nil if the filter.type is not URLRewrite":                                                                                   onlyFor("urlRewrite", "URLRewrite"),
	"filter.urlRewrite must be specified for URLRewrite filter.type":                                                                                       neededFor("urlRewrite", "URLRewrite"),
	"filter.extensionRef must be nil if the filter.type is not ExtensionRef":                                                                               onlyFor("extensionRef", "ExtensionRef"),
	"filter.extensionRef must be specified for ExtensionRef filter.type":                                                                                   neededFor("extensionRef", "ExtensionRef"),
	"replaceFullPath must be specified when type is set to 'ReplaceFullPath'":                                                                              neededFor("replaceFullPath", "ReplaceFullPath"),
	"type must be 'ReplaceFullPath' when replaceFullPath is set":                                                                                           onlyFor("replaceFullPath", "ReplaceFullPath"),
	"replacePrefixMatch must be specified when type is set to 'ReplacePrefixMatch'":                                                                        neededFor("replacePrefixMatch", "ReplacePrefixMatch"),
	"type must be 'ReplacePrefixMatch' when replacePrefixMatch is set":                                                                                     onlyFor("replacePrefixMatch", "ReplacePrefixMatch"),
	"AllowHeaders cannot contain '*' alongside other methods":                                                                                              starAlone,
	"AllowMethods cannot contain '*' alongside other methods":                                                                                              starAlone,
	"AllowOrigins cannot contain '*' alongside other origins":                                                                                              starAlone,
	"Only one of percent or fraction may be specified in HTTPRequestMirrorFilter":                                                                          func(v any) bool { return !has(v, "percent") || !has(v, "fraction") },
	"numerator must be less than or equal to denominator":                                                                                                  func(v any) bool { return num(v, "numerator") <= num(v, "denominator") },
	"value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']":                                                           path(func(p string) bool { return strings.HasPrefix(p, "/") }),
	"must not contain '//' when type one of ['Exact', 'PathPrefix']":                                                                                       pathWithout("//"),
	"must not contain '/./' when type one of ['Exact', 'PathPrefix']":                                                                                      pathWithout("/./"),
	"must not contain '/../' when type one of ['Exact', 'PathPrefix']":                                                                                     pathWithout("/../"),
	"must not contain '%2f' when type one of ['Exact', 'PathPrefix']":                                                                                      pathWithout("%2f"),
	"must not contain '%2F' when type one of ['Exact', 'PathPrefix']":                                                                                      pathWithout("%2F"),
	"must not contain '#' when type one of ['Exact', 'PathPrefix']":                                                                                        pathWithout("#"),
	"must not end with '/..' when type one of ['Exact', 'PathPrefix']":                                                                                     path(func(p string) bool { return !strings.HasSuffix(p, "/..") }),
	"must not end with '/.' when type one of ['Exact', 'PathPrefix']":                                                                                      path(func(p string) bool { return !strings.HasSuffix(p, "/.") }),
	"type must be one of ['Exact', 'PathPrefix', 'RegularExpression']":                                                                                     func(v any) bool { return isPath(v) || str(v, "type") == "RegularExpression" },
	"must only contain valid characters (matching ^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$) for types ['Exact', 'PathPrefix']":               path(pathCharacters.MatchString),
	"IPAddress values must be unique":                                                                                                                      addressesUnique("IPAddress"),
	"Hostname values must be unique":                                                                                                                       addressesUnique("Hostname"),
	"Hostname value must be empty or contain only valid characters (matching ^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$)": hostnameAddress(true),
	"Hostname value must only contain valid characters (matching ^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$)":             hostnameAddress(false),
	"Annotation keys must be in the form of an optional DNS subdomain prefix followed by a required name segment of up to 63 characters.":                  keysMatch(annotationKey),
	"If specified, the annotation key's prefix must be a DNS subdomain not longer than 253 characters in total.":                                           keysMatch(shortPrefix),
	"Label keys must be in the form of an optional DNS subdomain prefix followed by a required name segment of up to 63 characters.":                       keysMatch(annotationKey),
	"If specified, the label key's prefix must be a DNS subdomain not longer than 253 characters in total.":                                                keysMatch(shortPrefix),
	"tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']":                                                                                       everyListener(func(l any) bool { return !plainProtocol(l) && str(l, "protocol") != "HTTP" || !has(l, "tls") }),
	"tls mode must be Terminate for protocol HTTPS": everyListener(func(l any) bool {
		mode := str(at(l, "tls"), "mode")
		return str(l, "protocol") != "HTTPS" || !has(l, "tls") || mode == "" || mode == "Terminate"
	}),
	"tls mode must be set for protocol TLS":                                       everyListener(func(l any) bool { return str(l, "protocol") != "TLS" || str(at(l, "tls"), "mode") != "" }),
	"hostname must not be specified for protocols ['TCP', 'UDP']":                 everyListener(func(l any) bool { return !plainProtocol(l) || str(l, "hostname") == "" }),
	"Listener name must be unique within the Gateway":                             unique("name"),
	"Combination of port, protocol and hostname must be unique for each listener": unique("port", "protocol", "hostname"),
	"certificateRefs or options must be specified when mode is Terminate": func(v any) bool {
		options, _ := at(v, "options").(map[string]any)
		return str(v, "mode") != "Terminate" || len(items(v, "certificateRefs")) > 0 || len(options) > 0
	},
	"Port for TLS configuration must be unique within the Gateway": unique("port"),
	"Value is immutable": func(any) bool { return true }, // of a change: Check sees one state alone

	"One or both of 'service' or 'method' must be specified":                                                 callNamed,
	"service must only contain valid characters (matching ^(?i)\\.?[a-z_][a-z_0-9]*(\\.[a-z_][a-z_0-9]*)*$)": callPart("service", callService),
	"method must only contain valid characters (matching ^[A-Za-z_][A-Za-z_0-9]*$)":                          callPart("method", callMethod),

	"sectionName must be specified when targetRefs includes 2 or more references to the same target": targetsNamed,
	"sectionName must be unique when targetRefs includes 2 or more references to the same target":    targetsUnique,
	"must not contain both CACertificateRefs and WellKnownCACertificates":                            func(v any) bool { return !believesRefs(v) || !believesKnown(v) },
	"must specify either CACertificateRefs or WellKnownCACertificates":                               func(v any) bool { return believesRefs(v) || believesKnown(v) },
	"SubjectAltName element must contain Hostname, if Type is set to Hostname":                       func(v any) bool { return str(v, "type") != "Hostname" || str(v, "hostname") != "" },
	"SubjectAltName element must not contain Hostname, if Type is not set to Hostname":               func(v any) bool { return str(v, "type") == "Hostname" || str(v, "hostname") == "" },
	"SubjectAltName element must contain URI, if Type is set to URI":                                 func(v any) bool { return str(v, "type") != "URI" || str(v, "uri") != "" },
	"SubjectAltName element must not contain URI, if Type is not set to URI":                         func(v any) bool { return str(v, "type") == "URI" || str(v, "uri") == "" },

	"Hostnames cannot contain an IP":            serverNames(notAddress),
	"Hostnames must be valid based on RFC-1123": serverNames(exactName),
	"Wildcards on hostnames must be the first label, and the rest of hostname must be valid based on RFC-1123": serverNames(wildName),

	"backendRequest timeout cannot be longer than request timeout": func(v any) bool {
		if !has(v, "request") || !has(v, "backendRequest") {
			return true
		}
		request, _ := time.ParseDuration(str(v, "request"))
		backend, _ := time.ParseDuration(str(v, "backendRequest"))
		return request == 0 || backend <= request
	},
}

var pathCharacters = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$`)

// ruleMessages lists the messages of a schema's own rules.
func ruleMessages(s *spec.Schema) []string {
	list, _ := s.Extensions["x-kubernetes-validations"].([]any)
	var messages []string
	for _, r := range list {
		if m, ok := r.(map[string]any); ok {
			messages = append(messages, m["message"].(string))
		}
	}
	return messages
}

// plain takes the CEL author's words out of a message.
func plain(message string) string {
	return strings.NewReplacer("filter.", "", " be nil ", " not be given ", "['Exact', 'PathPrefix']", "Exact, PathPrefix",
		"['Exact', 'PathPrefix', 'RegularExpression']", "Exact, PathPrefix, RegularExpression",
		"httpRouteFilterRequestRedirect", "RequestRedirect", "httpRouteFilterRequestRewrite", "URLRewrite").Replace(message)
}

func at(v any, name string) any   { m, _ := v.(map[string]any); return m[name] }
func has(v any, name string) bool { return at(v, name) != nil }
func str(v any, name string) string {
	s, _ := at(v, name).(string)
	return s
}
func num(v any, name string) int64 {
	n, _ := at(v, name).(int64)
	return n
}
func items(v any, name string) []any {
	l, _ := at(v, name).([]any)
	return l
}

func some(l []any, is func(any) bool) bool {
	for _, v := range l {
		if is(v) {
			return true
		}
	}
	return false
}

// count tells how many filters of a list have a type.
func count(v any, filter string) int {
	n := 0
	for _, f := range v.([]any) {
		if str(f, "type") == filter {
			n++
		}
	}
	return n
}

func onlyFor(name, kind string) func(any) bool {
	return func(v any) bool { return !has(v, name) || str(v, "type") == kind }
}

func neededFor(name, kind string) func(any) bool {
	return func(v any) bool { return has(v, name) || str(v, "type") != kind }
}

func starAlone(v any) bool {
	l := v.([]any)
	return len(l) <= 1 || !some(l, func(e any) bool { return e == "*" })
}

func isPath(v any) bool { return str(v, "type") == "Exact" || str(v, "type") == "PathPrefix" }

func path(ok func(string) bool) func(any) bool {
	return func(v any) bool { return !isPath(v) || ok(str(v, "value")) }
}

func pathWithout(part string) func(any) bool {
	return path(func(p string) bool { return !strings.Contains(p, part) })
}

func sameParent(a, b any) bool {
	return str(a, "group") == str(b, "group") && str(a, "kind") == str(b, "kind") && str(a, "name") == str(b, "name") &&
		str(a, "namespace") == str(b, "namespace")
}

// parentsNamed: of several references to one parent, all or none name a section, and all or none a port.
func parentsNamed(v any) bool {
	for i, a := range v.([]any) {
		for _, b := range v.([]any)[:i] {
			if sameParent(a, b) && ((str(a, "sectionName") == "") != (str(b, "sectionName") == "") || (num(a, "port") == 0) != (num(b, "port") == 0)) {
				return false
			}
		}
	}
	return true
}

func parentsUnique(v any) bool {
	for i, a := range v.([]any) {
		for _, b := range v.([]any)[:i] {
			if sameParent(a, b) && num(a, "port") == num(b, "port") && str(a, "sectionName") == str(b, "sectionName") {
				return false
			}
		}
	}
	return true
}

// prefixMatched: who replaces a prefix must say which, by exactly one match of type PathPrefix.
func prefixMatched(rule, holder any, filter string) bool {
	n := 0
	for _, f := range items(holder, "filters") {
		if p := at(at(f, filter), "path"); str(p, "type") == "ReplacePrefixMatch" && has(p, "replacePrefixMatch") {
			n++
		}
	}
	if n != 1 {
		return true
	}
	matches := items(rule, "matches")
	return len(matches) == 1 && str(at(matches[0], "path"), "type") == "PathPrefix"
}

func backendsPrefixMatched(rule any, filter string) bool {
	return !some(items(rule, "backendRefs"), func(b any) bool { return !prefixMatched(rule, b, filter) })
}
