package routing

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// The reference routes as docs/reference/routing.md says, rule by rule, and takes its time.

// referenceRule returns the origin of the rule, "" for none, or "ambiguous".
func referenceRule(rules []*snapshot.Rule, req *exchange.Request) string {
	path, query, _ := strings.Cut(req.Path, "?")
	found := map[string]bool{}
	for _, reading := range referenceReadings(path) {
		origin := ""
		for _, r := range rules {
			if referenceMatch(r.Match, reading, query, req) {
				origin = r.Origin
				break
			}
		}
		found[origin] = true
	}
	if len(found) > 1 {
		return "ambiguous"
	}
	for origin := range found {
		return origin
	}
	return ""
}

// compiled caches expressions: thousands of comparisons share a few.
var compiled = map[string]*regexp.Regexp{}

func referenceRegexp(s string) *regexp.Regexp {
	if compiled[s] == nil {
		compiled[s] = regexp.MustCompile(s)
	}
	return compiled[s]
}

func referenceReadings(path string) []string {
	normal := referenceRegexp(`%[0-9A-Fa-f]{2}|%`).ReplaceAllStringFunc(path, func(s string) string {
		var c byte
		if _, err := fmt.Sscanf(s, "%%%02x", &c); err != nil || len(s) != 3 {
			return "%25"
		}
		if strings.ContainsRune("/\\%", rune(c)) || c < 0x20 || c == 0x7f {
			return strings.ToUpper(s)
		}
		return string([]byte{c})
	})
	merge := func(s string) string { return referenceRegexp(`/+`).ReplaceAllString(s, "/") }
	slashes := func(s string) string { return strings.NewReplacer("%2F", "/", "%5C", "/", `\`, "/").Replace(s) }
	prune := func(s string) string {
		s = referenceRegexp(`(\?|#|%00).*`).ReplaceAllString(s, "")
		return referenceRegexp(`;[^/]*`).ReplaceAllString(s, "")
	}
	var all []string
	for _, s := range []string{normal, slashes(normal), prune(normal), slashes(prune(normal)), prune(slashes(normal))} {
		all = append(all, s, merge(s), referenceDots(s), referenceDots(merge(s)), merge(referenceDots(s)))
	}
	return all
}

func referenceDots(s string) string {
	if !strings.HasPrefix(s, "/") {
		return s
	}
	var kept []string
	segments := strings.Split(s[1:], "/")
	for i, segment := range segments {
		last := i == len(segments)-1
		switch segment {
		case ".", "..":
			if segment == ".." && len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
			if last {
				kept = append(kept, "")
			}
		default:
			kept = append(kept, segment)
		}
	}
	return "/" + strings.Join(kept, "/")
}

func referenceMatch(m *snapshot.Match, path, query string, req *exchange.Request) bool {
	if m == nil {
		return true
	}
	if m.Path != nil {
		switch value := m.Path.Value; m.Path.Kind {
		case snapshot.StringMatch_EXACT:
			if path != value {
				return false
			}
		case snapshot.StringMatch_PREFIX:
			value = strings.TrimSuffix(value, "/")
			if value != "" && path != value && !strings.HasPrefix(path, value+"/") {
				return false
			}
		default:
			if !referenceRegexp("^(?:" + value + ")$").MatchString(path) {
				return false
			}
		}
	}
	if m.Method != "" && m.Method != req.Method {
		return false
	}
	for _, h := range m.Headers {
		var values []string
		for _, f := range req.Fields {
			if strings.EqualFold(f.Name, h.Name) {
				values = append(values, f.Value)
			}
		}
		if len(values) == 0 || !referenceValue(h.Value, strings.Join(values, ", ")) {
			return false
		}
	}
	for _, q := range m.Query {
		i := slices.IndexFunc(strings.Split(query, "&"), func(p string) bool { return strings.HasPrefix(p, q.Name+"=") })
		if i < 0 || !referenceValue(q.Value, strings.Split(query, "&")[i][len(q.Name)+1:]) {
			return false
		}
	}
	return true
}

func referenceValue(m *snapshot.StringMatch, value string) bool {
	if m.Kind == snapshot.StringMatch_REGEX {
		return referenceRegexp("^(?:" + m.Value + ")$").MatchString(value)
	}
	return m.Value == value
}

func oneOf(r *rand.Rand, all ...string) string { return all[r.IntN(len(all))] }

func randomValue(r *rand.Rand, patterns ...string) *snapshot.StringMatch {
	if r.IntN(4) == 0 {
		return pattern(oneOf(r, patterns...))
	}
	return exact(oneOf(r, "x", "y", "x, y"))
}

func randomRule(r *rand.Rand, i int) *snapshot.Rule {
	rule := &snapshot.Rule{Origin: fmt.Sprint("r", i), Backends: []*snapshot.Backend{to("orders", 1)}}
	if r.IntN(20) == 0 {
		return rule
	}
	rule.Match = &snapshot.Match{}
	if r.IntN(5) > 0 {
		path := ""
		for range 1 + r.IntN(3) {
			path += "/" + oneOf(r, "a", "b", "ab")
		}
		switch r.IntN(7) {
		case 0, 1:
			rule.Match.Path = exact(path)
		case 2:
			rule.Match.Path = pattern(oneOf(r, "/a.*", "/[ab]/b", "/a|/b", ".*b"))
		case 3:
			rule.Match.Path = prefix(path + "/")
		default:
			rule.Match.Path = prefix(path)
		}
	}
	if r.IntN(4) == 0 {
		rule.Match.Method = oneOf(r, "GET", "POST")
	}
	if r.IntN(3) == 0 {
		rule.Match.Headers = append(rule.Match.Headers, &snapshot.FieldMatch{Name: oneOf(r, "h", "K"), Value: randomValue(r, "x.*", ".", "x|y")})
	}
	if r.IntN(3) == 0 {
		rule.Match.Query = append(rule.Match.Query, &snapshot.FieldMatch{Name: oneOf(r, "p", "q"), Value: randomValue(r, "x.*", ".", "x|y")})
	}
	return rule
}

func randomRequest(r *rand.Rand) *exchange.Request {
	var path strings.Builder
	for range 1 + r.IntN(4) {
		path.WriteString("/" + oneOf(r, "a", "b", "ab", "%61", "a", "b"))
		if r.IntN(8) == 0 {
			path.WriteString(oneOf(r, "/", "//a", "/..", "/../b", "/.", "%2fb", "%2F..", `\b`, "%5cb", "%", "%zz", "%2e%2e/a", "/%2E/", "..", "%00", ";", "..;", "%3bx", "%3f", "%23"))
		}
	}
	req := get(path.String())
	req.Method = oneOf(r, "GET", "GET", "POST")
	for range r.IntN(3) {
		req.Fields = append(req.Fields, exchange.Field{Name: oneOf(r, "H", "h", "k"), Value: oneOf(r, "x", "y")})
	}
	if r.IntN(2) == 0 {
		req.Path += "?" + oneOf(r, "p", "q") + "=" + oneOf(r, "x", "y") + "&" + oneOf(r, "p", "q", "z") + "=" + oneOf(r, "x", "y")
	}
	return req
}

func TestPickAgreesWithTheReference(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	outcomes := make(map[string]int)
	for range 150 {
		var rules []*snapshot.Rule
		for i := range 1 + r.IntN(20) {
			rules = append(rules, randomRule(r, i))
		}
		table := tableOf(t, instances("a"), rules...)
		call := callOf(rand.NewPCG(seed, 1))
		var d Decision
		for range 60 {
			req := randomRequest(r)
			expected := referenceRule(rules, req)
			table.Pick(call, req, &d)
			got := d.Rule
			if d.Status == 400 {
				got = "ambiguous"
			}
			if got != expected {
				t.Fatalf("%s %s %v goes to %q, want %q, of rules\n%v", req.Method, req.Path, req.Fields, got, expected, rules)
			}
			outcomes[got]++
		}
	}
	if outcomes[""] < 30 || outcomes["ambiguous"] < 30 || outcomes["r3"] < 30 {
		t.Errorf("the requests do not reach all outcomes: %v", outcomes)
	}
}

// TestReadingsAreThoseOfTheReference: a path is read in all of its ways, each begins with what is taken for stable, and what
// comes behind that is among what is looked up to find whether a rule tells them apart.
func TestReadingsAreThoseOfTheReference(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 2))
	for range 20_000 {
		var raw strings.Builder
		for range 1 + random.IntN(8) {
			raw.WriteString(oneOf(random, "/", "/a", "/b", "//", "/..", "/.", "..", ";", "%2f", "%5C", "\\", "%3b", "?", "#", "%00", "%25", "a"))
		}
		path := "/b" + raw.String()
		normal := string(appendNormal(nil, path))
		want, got := map[string]bool{}, map[string]bool{}
		for _, reading := range referenceReadings(path) {
			want[reading] = true
		}
		for i := range formsPruned {
			form := string(appendForm(nil, normal, i))
			for way := range readings {
				reading := string(appendReading(nil, form, way))
				got[reading] = true
				if end := stableEnd(normal); ambiguous(normal) && (!strings.HasPrefix(reading, normal[:end]) || end > 0 && (len(reading) == end || reading[end] != '/')) {
					t.Fatalf("seed %d: %q is read as %q, and %q is taken for stable", seed, normal, reading, normal[:end])
				} else if ambiguous(normal) {
					first, _ := cutSegment(reading[end:])
					if at := (&node{children: map[string]*node{first: {}}}); !at.tellsApart(normal[end:]) {
						t.Fatalf("seed %d: %q is read as %q, and a rule for %q is not looked at", seed, normal, reading, first)
					}
				}
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: %q is read as %v, want %v", seed, normal, got, want)
		}
	}
}
