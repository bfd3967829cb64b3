package analyze

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// body finds what is wrong with the rules that callers, or a gateway, try in order.
func (f *findings) body(subject string, body proto.Message) {
	names, err := snapshot.ParseSubject(subject)
	if err != nil {
		return
	}
	where := names.Namespace + "/" + names.Service
	switch body := body.(type) {
	case *snapshot.Outbound:
		for _, p := range body.Ports {
			f.rules(fmt.Sprintf("port %s of %s", compile.PortName(p.Number), where), p.Rules)
		}
	case *snapshot.Inbound:
		in := body.GetIngress()
		for _, l := range in.GetListeners() {
			for _, h := range l.Hosts {
				var rules []*snapshot.Rule
				for _, at := range h.Rules {
					rules = append(rules, in.Rules[at])
				}
				f.rules(fmt.Sprintf("listener %s of Gateway %s, hostname %q", l.Name, where, h.Hostname), rules)
			}
		}
	}
}

// rules looks at a list that is tried in order. That one rule asks for no less than another is looked for among the
// first maxCompared of them.
func (f *findings) rules(where string, rules []*snapshot.Rule) {
	for i, r := range rules {
		document, field := placeOf(r.Origin)
		if document == "" {
			continue
		}
		rule, _, _ := strings.Cut(field, ".matches")
		switch r.AnswerReason { // as compile has them
		case "the weights of all backendRefs are 0":
			f.add(Finding{Error, CodeWeights, document, rule + ".backendRefs", r.AnswerReason + ", and " + fate(r), "give one of them a weight"})
		case "the rule has no backendRefs":
			f.add(Finding{Error, CodeNoBackends, document, rule, r.AnswerReason + ", and " + fate(r), "name a backend, or redirect"})
		}
		for _, before := range rules[:min(i, maxCompared)] {
			if !covers(before.Match, r.Match) {
				continue
			}
			other, at := placeOf(before.Origin)
			one := Finding{Warning, CodeUnreachable, document, field, fmt.Sprintf("%s of the same route takes all of its requests at %s", at, where), "remove it, or let it ask for something else"}
			if other != document {
				one.Level, one.Code = Error, CodeConflict
				one.Message = fmt.Sprintf("%s of %s takes all of its requests at %s", at, other, where)
				one.Remedy = "have one route for these requests: the older one decides"
			}
			f.add(one)
			break
		}
	}
}

// fate is what becomes of what a rule takes that has no backend.
func fate(r *snapshot.Rule) string {
	if strings.HasPrefix(r.Origin, "udproute/") {
		return "its datagrams are dropped"
	}
	if ofConnections(r.Origin) {
		return "its connections are reset"
	}
	return fmt.Sprintf("its requests are answered with %d", r.Answer)
}

// ofConnections reports whether a rule is for whole connections, or flows of datagrams, and has no matches.
func ofConnections(origin string) bool {
	return strings.HasPrefix(origin, "tcproute/") || strings.HasPrefix(origin, "tlsroute/") || strings.HasPrefix(origin, "udproute/")
}

// maxCompared bounds the comparisons of one list.
const maxCompared = 2048

// placeOf reads an origin, "KIND/NAMESPACE/NAME#RULE/MATCH" with the kind of a route; a rule that nobody wrote has no
// document.
func placeOf(origin string) (document, field string) {
	kind, rest, _ := strings.Cut(origin, "/")
	ok := strings.HasSuffix(kind, "route")
	name, position, ok2 := strings.Cut(rest, "#")
	namespace, route, ok3 := strings.Cut(name, "/")
	rule, match, ok4 := strings.Cut(position, "/")
	if !ok || !ok2 || !ok3 || !ok4 {
		return "", ""
	}
	if ofConnections(origin) {
		return namespace + "/" + kind + "/" + route, fmt.Sprintf("spec.rules[%s]", rule)
	}
	return namespace + "/" + kind + "/" + route, fmt.Sprintf("spec.rules[%s].matches[%s]", rule, match)
}

// covers reports whether every request that b takes is one that a takes, as far as that can be told without looking
// into expressions.
func covers(a, b *snapshot.Match) bool {
	if a.GetMethod() != "" && a.GetMethod() != b.GetMethod() {
		return false
	}
	return pathCovers(a.GetPath(), b.GetPath()) && fieldsCover(a.GetHeaders(), b.GetHeaders(), true) && fieldsCover(a.GetQuery(), b.GetQuery(), false)
}

func pathCovers(a, b *snapshot.StringMatch) bool {
	if a == nil || a.Kind == snapshot.StringMatch_PREFIX && strings.TrimRight(a.Value, "/") == "" {
		return true
	}
	if b == nil {
		return false
	}
	if a.Kind != snapshot.StringMatch_PREFIX || b.Kind == snapshot.StringMatch_REGEX {
		return a.Kind == b.Kind && a.Value == b.Value
	}
	prefix := strings.TrimRight(a.Value, "/")
	return b.Value == prefix || strings.HasPrefix(b.Value, prefix+"/")
}

// fieldsCover reports whether b asks for everything that a asks for.
func fieldsCover(a, b []*snapshot.FieldMatch, foldCase bool) bool {
	for _, want := range a {
		found := false
		for _, has := range b {
			same := want.Name == has.Name || foldCase && strings.EqualFold(want.Name, has.Name)
			found = found || same && proto.Equal(want.Value, has.Value)
		}
		if !found {
			return false
		}
	}
	return true
}
