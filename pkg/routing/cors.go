package routing

import (
	"strconv"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A cors says which scripts of other origins may read the answers of a rule (Fetch, "CORS protocol"; Gateway API,
// HTTPCORSFilter).
type cors struct {
	origins                  []originPattern
	methods, headers, expose string // joined as fields have them; empty: none is named
	anyMethod, anyHeader     bool
	credentials              bool
	maxAge                   string // in seconds
}

// An originPattern is "scheme://host:port" of which the host's left end may be any, or every origin.
type originPattern struct {
	any          bool
	scheme, host string // in lower case; host without the "*"
	wildcard     bool
	port         string
}

func compileCORS(s *snapshot.Cors) *cors {
	if s == nil {
		return nil
	}
	c := &cors{
		methods: strings.Join(s.Methods, ", "), headers: strings.Join(s.Headers, ", "), expose: strings.Join(s.Expose, ", "),
		credentials: s.Credentials, maxAge: strconv.FormatUint(uint64(s.MaxAgeSeconds), 10),
	}
	c.anyMethod, c.anyHeader = c.methods == "*", c.headers == "*"
	for _, o := range s.Origins {
		c.origins = append(c.origins, compileOrigin(o))
	}
	return c
}

func compileOrigin(s string) originPattern {
	if s == "*" {
		return originPattern{any: true}
	}
	scheme, host, port := splitOrigin(s)
	p := originPattern{scheme: strings.ToLower(scheme), port: port}
	p.host, p.wildcard = strings.CutPrefix(strings.ToLower(host), "*")
	return p
}

// splitOrigin takes an origin apart; the port that goes without saying is the scheme's.
func splitOrigin(s string) (scheme, host, port string) {
	scheme, host, _ = strings.Cut(s, "://")
	if i := strings.LastIndexByte(host, ':'); i >= 0 && i > strings.LastIndexByte(host, ']') {
		return scheme, host[:i], host[i+1:]
	}
	if strings.EqualFold(scheme, "https") {
		return scheme, host, "443"
	}
	return scheme, host, "80"
}

// allows reports whether scripts of an origin may read. Everything but the host's wildcard is compared whole.
func (c *cors) allows(origin string) bool {
	scheme, host, port := splitOrigin(origin)
	for i := range c.origins {
		switch p := &c.origins[i]; {
		case p.any:
			return true
		case !strings.EqualFold(scheme, p.scheme) || port != p.port:
		case !p.wildcard && strings.EqualFold(host, p.host):
			return true
		case p.wildcard && len(host) > len(p.host) && strings.EqualFold(host[len(host)-len(p.host):], p.host):
			return true
		}
	}
	return false
}

// cross applies the rule's CORS to a request: what the answer must say stands in d.Fields after it. It reports
// whether the request is a preflight, which the node answers.
func (d *Decision) cross(c *cors, req *exchange.Request) (preflight bool) {
	origin, crossing := req.Fields.Get("Origin")
	if !crossing {
		return false
	}
	asked, preflight := req.Fields.Get("Access-Control-Request-Method")
	preflight = preflight && req.Method == "OPTIONS"
	d.say("Vary", "Origin") // a cache must not give one origin's answer to another
	if c.allows(origin) {
		d.say("Access-Control-Allow-Origin", origin)
		if c.credentials {
			d.say("Access-Control-Allow-Credentials", "true")
		}
		if c.expose != "" && !(c.expose == "*" && c.credentials) {
			d.say("Access-Control-Expose-Headers", c.expose)
		}
		if preflight {
			d.allow(c, asked, req)
		}
	}
	if preflight {
		d.answer(204, exchange.Completed, "")
	}
	return preflight
}

// allow says what a preflight may go on with. What is asked for is repeated where everything is allowed: "*" means
// itself where there are credentials.
func (d *Decision) allow(c *cors, method string, req *exchange.Request) {
	methods, headers := c.methods, c.headers
	if c.anyMethod {
		methods = method
	}
	if c.anyHeader {
		headers, _ = req.Fields.Get("Access-Control-Request-Headers")
	}
	if methods != "" {
		d.say("Access-Control-Allow-Methods", methods)
	}
	if headers != "" {
		d.say("Access-Control-Allow-Headers", headers)
	}
	d.say("Access-Control-Max-Age", c.maxAge)
}

func (d *Decision) say(name, value string) {
	d.Fields = append(d.Fields, exchange.Field{Name: name, Value: value})
}

// ofCORS are the fields of a response that only the rule says, where it has a CORS.
var ofCORS = []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers"}
