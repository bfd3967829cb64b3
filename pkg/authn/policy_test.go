package authn

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func TestTimes(t *testing.T) {
	const leeway = 30
	for _, tt := range []struct {
		name   string
		claims map[string]any
		want   string // empty: it is good
	}{
		{"in the last second of the leeway", map[string]any{"exp": noon.Unix() - leeway + 1}, ""},
		{"at the end of the leeway", map[string]any{"exp": noon.Unix() - leeway}, "expired"},
		{"a fraction of a second before", map[string]any{"exp": float64(noon.Unix()) - leeway + 0.5}, ""},
		{"never", map[string]any{"exp": nil}, "malformed"},
		{"a time that is a text", map[string]any{"exp": "1999999999"}, "malformed"},
		{"before there was time", map[string]any{"exp": -1}, "malformed"},
		{"after all time", map[string]any{"exp": 1e300}, "malformed"},
		{"so far ahead that nanoseconds overflow", map[string]any{"exp": 9e18}, "malformed"},
		{"null", map[string]any{"exp": map[string]any{}}, "malformed"},
		{"not before the end of the leeway", map[string]any{"nbf": noon.Unix() + leeway}, ""},
		{"not before a second later", map[string]any{"nbf": noon.Unix() + leeway + 1}, "not valid yet"},
		{"made in the future", map[string]any{"iat": noon.Unix() + leeway + 1}, "not valid yet"},
		{"made when nobody says", map[string]any{"iat": nil}, ""},
		{"nbf that is none", map[string]any{"nbf": "now"}, "malformed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := compiled(t, bodyOf(t, jose.ES256))
			for range 2 { // the second time it is known
				_, refusal := p.Verify(token(t, jose.ES256, tt.claims), noon)
				if tt.want == "" && refusal != nil || tt.want != "" && (refusal == nil || !strings.Contains(refusal.Challenge, tt.want)) {
					t.Errorf("%+v, want %q", refusal, tt.want)
				}
			}
		})
	}
}

// TestAKnownTokenEnds has a token that was good when it was seen first.
func TestAKnownTokenEnds(t *testing.T) {
	p := compiled(t, bodyOf(t, jose.ES256))
	one := token(t, jose.ES256, nil)
	for _, tt := range []struct {
		at   time.Duration
		good bool
	}{{0, true}, {time.Hour, true}, {time.Hour + 31*time.Second, false}, {time.Minute, true}, {-2 * time.Minute, false}} {
		if _, refusal := p.Verify(one, noon.Add(tt.at)); (refusal == nil) != tt.good {
			t.Errorf("after %v: %+v", tt.at, refusal)
		}
	}
}

// TestAKnownTokenEndsWithItsKey has the issuer take a key back.
func TestAKnownTokenEndsWithItsKey(t *testing.T) {
	body := bodyOf(t, jose.ES256, jose.RS256)
	p := compiled(t, body)
	one := token(t, jose.ES256, nil)
	if _, refusal := p.Verify(one, noon); refusal != nil {
		t.Fatalf("%+v", refusal)
	}
	same, err := Compile(proto.Clone(body).(*snapshot.Authentication), p, nil)
	if err != nil || same != p {
		t.Errorf("what did not change was made anew; %v", err)
	}
	less := proto.Clone(body).(*snapshot.Authentication)
	less.Issuers[0].Keys = setOfKeys(t, jose.RS256)
	after, err := Compile(less, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user, refusal := after.Verify(one, noon); refusal == nil {
		t.Errorf("it is of %+v", user)
	}
}

func TestUnknownKeysAreAskedFor(t *testing.T) {
	var asked []string
	p, err := Compile(bodyOf(t, jose.RS256), nil, func(url string) { asked = append(asked, url) })
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []string{token(t, jose.RS256, nil), token(t, jose.RS256, map[string]any{"iss": "https://other"}), "a.b.c"} {
		_, _ = p.Verify(one, noon)
	}
	if asked != nil {
		t.Errorf("asked %q for keys that are known, or nobody's", asked)
	}
	if _, refusal := p.Verify(token(t, jose.ES256, nil), noon); refusal == nil || !reflect.DeepEqual(asked, []string{idp + "/keys"}) {
		t.Errorf("%+v, asked %q", refusal, asked)
	}

	// A token that names no key may be of a new one; one that names a key which is known, and did not sign it, is forged.
	forged := token(t, jose.RS256, nil)
	forged = forged[:strings.LastIndexByte(forged, '.')+1] + strings.Repeat("A", 342)
	asked = nil
	if _, refusal := p.Verify(forged, noon); refusal == nil || asked != nil {
		t.Errorf("%+v, asked %q for a forged one", refusal, asked)
	}
	nameless := signed(t, jose.RS256, map[string]any{"alg": "RS256"}, claimsOf(nil))
	nameless = nameless[:strings.LastIndexByte(nameless, '.')+1] + strings.Repeat("A", 342)
	if _, refusal := p.Verify(nameless, noon); refusal == nil || len(asked) != 1 {
		t.Errorf("%+v, asked %q for one that names no key", refusal, asked)
	}
}

// TestCallersHearWhy: which check failed is told, and nothing of the token.
func TestCallersHearWhy(t *testing.T) {
	p := compiled(t, bodyOf(t, jose.RS256))
	forged := token(t, jose.RS256, nil)
	forged = forged[:strings.LastIndexByte(forged, '.')+1] + strings.Repeat("A", 342)
	for want, one := range map[string]string{
		errMalformed.Error(): "a.b.c", errAlgorithm.Error(): signed(t, jose.RS256, map[string]any{"alg": "HS256"}, claimsOf(nil)),
		errUnknownKey.Error(): token(t, jose.ES256, nil), errSignature.Error(): forged, errIssuer.Error(): token(t, jose.RS256, map[string]any{"iss": "https://other"}),
		errAudience.Error(): token(t, jose.RS256, map[string]any{"aud": "other"}), errClaims.Error(): token(t, jose.RS256, map[string]any{"exp": nil}),
	} {
		if _, refusal := p.Verify(one, noon); refusal == nil || refusal.Challenge != `Bearer error="invalid_token", error_description="`+want+`"` {
			t.Errorf("%+v, want %q", refusal, want)
		}
	}
}

// TestSessions: what a session holds counts where the request shows no token by itself, and is none where it is not good.
func TestSessions(t *testing.T) {
	good, bob, old := token(t, jose.ES256, nil), token(t, jose.ES256, map[string]any{"sub": "bob"}), token(t, jose.ES256, map[string]any{"exp": noon.Add(-time.Hour).Unix()})
	for _, tt := range []struct {
		name, session, shown string
		optional             bool
		subject              string // empty: nobody
		by                   bool   // the session
		want                 *Refusal
	}{
		{"a good one", good, "", false, "alice", true, nil},
		{"none", "", "", false, "", false, missing},
		{"none, where nothing is asked", "", "", true, "", false, nil},
		{"one that is over", old, "", false, "", false, missing},
		{"one that is over, where nothing is asked", old, "", true, "", false, nil},
		{"another token is shown", good, bob, false, "bob", false, nil},
		{"a bad token is shown", good, old, false, "", false, expired},
	} {
		body := bodyOf(t, jose.ES256)
		body.Optional, body.Headers = tt.optional, []*snapshot.ClaimHeader{{Name: "X-User", Claim: []string{"sub"}}}
		req := &exchange.Request{Path: "/"}
		if tt.shown != "" {
			req = withToken(tt.shown)
		}
		user, by, refusal := compiled(t, body).AdmitSession(req, tt.session, noon)
		if told, _ := req.Fields.Get("X-User"); user.Subject() != tt.subject || told != tt.subject || by != tt.by || refusal != tt.want {
			t.Errorf("%s: %+v, told %q, by the session: %v, %+v", tt.name, user, told, by, refusal)
		}
	}
}

// TestRefusedTokensAreNotWrittenDown: the query of a request that is refused stands in logs.
func TestRefusedTokensAreNotWrittenDown(t *testing.T) {
	body := bodyOf(t, jose.ES256)
	body.Sources = []*snapshot.TokenSource{{Name: "X-Token"}, {Kind: snapshot.TokenSource_QUERY, Name: "t"}}
	p := compiled(t, body)
	for path, left := range map[string]string{"/a?t=x&b=c": "/a?b=c", "/a?t=x": "/a", "/a?t=x&t=y": "/a", "/a?t=%zz": "/a", "/a": "/a"} {
		req := &exchange.Request{Path: path, Fields: exchange.Fields{{Name: "X-Other", Value: "stays"}}}
		if path == "/a" {
			req.Fields = append(req.Fields, exchange.Field{Name: "X-Token", Value: "bad"})
		}
		before := len(req.Fields)
		if _, refusal := p.Admit(req, noon); refusal == nil || req.Path != left || len(req.Fields) != before {
			t.Errorf("%s: %+v, and %s with %v is left", path, refusal, req.Path, req.Fields)
		}
	}
}

func TestWithoutKeysNoTokenIsGood(t *testing.T) {
	body := bodyOf(t, jose.ES256)
	body.Issuers[0].Keys = nil
	if _, refusal := compiled(t, body).Verify(token(t, jose.ES256, nil), noon); refusal == nil {
		t.Error("one was")
	}
	if _, refusal := compiled(t, &snapshot.Authentication{}).Verify(token(t, jose.ES256, nil), noon); refusal == nil {
		t.Error("one was, without issuers")
	}
}

func TestWhereTokensStand(t *testing.T) {
	good, other := token(t, jose.ES256, nil), token(t, jose.ES256, map[string]any{"sub": "bob"})
	anywhere := []*snapshot.TokenSource{
		{Name: "Authorization", Prefix: "Bearer "}, {Name: "X-Token"},
		{Kind: snapshot.TokenSource_COOKIE, Name: "session"}, {Kind: snapshot.TokenSource_QUERY, Name: "access_token"},
	}
	for _, tt := range []struct {
		name     string
		sources  []*snapshot.TokenSource
		optional bool
		path     string
		fields   exchange.Fields
		want     int // 0: it passes
		subject  string
		left     string // the path and fields that the service sees; empty: not asked
	}{
		{"as most do", nil, false, "/", exchange.Fields{{Name: "authorization", Value: "Bearer " + good}}, 0, "alice", "/"},
		{"in other letters", nil, false, "/", exchange.Fields{{Name: "AUTHORIZATION", Value: "bEARER  " + good + " "}}, 0, "alice", "/"},
		{"nothing", nil, false, "/", nil, 401, "", ""},
		{"nothing, where nothing is asked", nil, true, "/", nil, 0, "", "/"},
		{"a bad one, where nothing is asked", nil, true, "/", exchange.Fields{{Name: "Authorization", Value: "Bearer x"}}, 401, "", ""},
		{"another scheme", nil, false, "/", exchange.Fields{{Name: "Authorization", Value: "Basic " + good}}, 401, "", ""},
		{"another scheme, where nothing is asked", nil, true, "/", exchange.Fields{{Name: "Authorization", Value: "Basic abc"}}, 0, "", "/ Authorization: Basic abc"},
		{"a scheme alone", nil, false, "/", exchange.Fields{{Name: "Authorization", Value: "Bearer "}}, 401, "", ""},
		{"two fields", nil, false, "/", exchange.Fields{{Name: "Authorization", Value: "Bearer " + good}, {Name: "authorization", Value: "Bearer " + other}}, 400, "", ""},
		{"two fields, one of another scheme", nil, false, "/", exchange.Fields{{Name: "Authorization", Value: "Bearer " + good}, {Name: "Authorization", Value: "Basic abc"}}, 400, "", ""},
		{"two in one field", nil, false, "/", exchange.Fields{{Name: "Authorization", Value: "Bearer " + good + ", Bearer " + other}}, 401, "", ""},
		{"where nobody looks", nil, false, "/?access_token=" + good, exchange.Fields{{Name: "Cookie", Value: "session=" + good}}, 401, "", ""},
		{"in a field of its own", anywhere, false, "/", exchange.Fields{{Name: "x-token", Value: good}}, 0, "alice", "/"},
		{"in a cookie", anywhere, false, "/", exchange.Fields{{Name: "Cookie", Value: "a=b;  session=" + good + "; c=d=e"}}, 0, "alice", "/ Cookie: a=b; c=d=e"},
		{"in the only cookie", anywhere, false, "/", exchange.Fields{{Name: "Cookie", Value: "session=" + good}}, 0, "alice", "/"},
		{"in a cookie of several fields, as in HTTP/2", anywhere, false, "/", exchange.Fields{{Name: "cookie", Value: "a=b"}, {Name: "cookie", Value: "session=" + good}}, 0, "alice", "/ cookie: a=b"},
		{"in what looks like a cookie", anywhere, false, "/", exchange.Fields{{Name: "X-Cookie", Value: "session=" + good}}, 401, "", ""},
		{"in two cookies", anywhere, false, "/", exchange.Fields{{Name: "Cookie", Value: "session=" + good + "; session=" + other}}, 400, "", ""},
		{"in two cookies of two fields", anywhere, false, "/", exchange.Fields{{Name: "Cookie", Value: "session=" + good}, {Name: "Cookie", Value: "session=" + other}}, 400, "", ""},
		{"in the query", anywhere, false, "/a?b=c&access_token=" + good + "&d=e", nil, 0, "alice", "/a?b=c&d=e"},
		{"in the query alone", anywhere, false, "/a?access_token=" + good, nil, 0, "alice", "/a"},
		{"in the query, encoded", anywhere, false, "/a?access%5Ftoken=" + strings.ReplaceAll(good, ".", "%2E"), nil, 0, "alice", "/a"},
		{"twice in the query, once encoded", anywhere, false, "/a?access_token=" + good + "&access%5ftoken=" + other, nil, 400, "", ""},
		{"in the query and malformed", anywhere, false, "/a?access_token=%zz", nil, 400, "", ""},
		{"in two places", anywhere, false, "/a?access_token=" + good, exchange.Fields{{Name: "Cookie", Value: "session=" + good}}, 400, "", ""},
		{"a good one and a bad one", anywhere, false, "/", exchange.Fields{{Name: "X-Token", Value: good}, {Name: "Cookie", Value: "session=x"}}, 400, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := bodyOf(t, jose.ES256)
			body.Sources, body.Optional, body.Remove = tt.sources, tt.optional, true
			req := &exchange.Request{Path: tt.path, Fields: tt.fields}
			user, refusal := compiled(t, body).Admit(req, noon)
			if tt.want != 0 {
				if refusal == nil || refusal.Status != tt.want {
					t.Errorf("%+v, %+v", user, refusal)
				}
				if tt.want == 400 && refusal != nil && !strings.HasPrefix(refusal.Challenge, `Bearer error="invalid_request"`) {
					t.Errorf("challenge %s", refusal.Challenge)
				}
				return
			}
			left := req.Path
			for _, f := range req.Fields {
				left += " " + f.Name + ": " + f.Value
			}
			if refusal != nil || user.Subject() != tt.subject || left != tt.left {
				t.Errorf("%+v, %+v; the service sees %s", user, refusal, left)
			}
		})
	}
}

func TestATokenStaysWhereItShall(t *testing.T) {
	body := bodyOf(t, jose.ES256)
	body.Sources = []*snapshot.TokenSource{{Name: "Authorization", Prefix: "Bearer "}, {Kind: snapshot.TokenSource_QUERY, Name: "t"}}
	p := compiled(t, body)
	req := withToken(token(t, jose.ES256, nil))
	if _, refusal := p.Admit(req, noon); refusal != nil || len(req.Fields) != 1 {
		t.Errorf("%+v: %v", refusal, req.Fields)
	}
	req = &exchange.Request{Path: "/?t=" + token(t, jose.ES256, nil)}
	if _, refusal := p.Admit(req, noon); refusal != nil || req.Path != "/" {
		t.Errorf("%+v: what many write down is still there: %s", refusal, req.Path)
	}
}

// TestClaimsToFields has callers say by themselves what only a token may.
func TestClaimsToFields(t *testing.T) {
	body := bodyOf(t, jose.ES256)
	body.Optional = true
	for name, claim := range map[string][]string{
		"X-User": {"sub"}, "X-Groups": {"groups"}, "X-Role": {"realm_access", "role"}, "X-Object": {"realm_access"}, "X-Odd": {"odd"},
		"X-Split": {"split"}, "X-Level": {"level"}, "X-Commas": {"commas"}, "X-Empty": {"empty"}, "X-Nothing": {"nothing"},
	} {
		body.Headers = append(body.Headers, &snapshot.ClaimHeader{Name: name, Claim: claim})
	}
	p := compiled(t, body)
	forged := exchange.Fields{{Name: "x-user", Value: "root"}, {Name: "X_User", Value: "root"}, {Name: "X-GROUPS", Value: "admins"}, {Name: "x-role", Value: "admin"}, {Name: "X-Other", Value: "stays"}}
	anonymous := &exchange.Request{Path: "/", Fields: append(exchange.Fields{}, forged...)}
	if user, refusal := p.Admit(anonymous, noon); user != nil || refusal != nil || len(anonymous.Fields) != 1 {
		t.Errorf("%+v, %+v: of nobody the service sees %v", user, refusal, anonymous.Fields)
	}
	req := withToken(token(t, jose.ES256, map[string]any{
		"groups": []any{"a", "b c"}, "realm_access": map[string]any{"role": "seller"}, "odd": "a\r\nX-Admin: 1", "split": "x\x00", "level": 1.5,
		"commas": []string{"a,b"}, "empty": "", "nothing": []string{},
	}))
	req.Fields = append(req.Fields, forged...)
	if _, refusal := p.Admit(req, noon); refusal != nil {
		t.Fatalf("%+v", refusal)
	}
	got := map[string]string{}
	for _, f := range req.Fields[1:] {
		if _, twice := got[f.Name]; twice {
			t.Errorf("%s is there twice", f.Name)
		}
		got[f.Name] = f.Value
	}
	want := map[string]string{"X-User": "alice", "X-Groups": "a,b c", "X-Role": "seller", "X-Level": "1.5", "X-Other": "stays"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the service sees %v, want %v", got, want)
	}
	if !p.Tells("x_user") || p.Tells("X-Other") {
		t.Error("which fields tell claims is not known")
	}
}

func TestSigningInAsAsked(t *testing.T) {
	body := bodyOf(t, jose.ES256)
	body.AcrValues, body.MaxAgeMs = []string{"gold", `sil"ver`}, 600_000
	p := compiled(t, body)
	for _, tt := range []struct {
		name   string
		claims map[string]any
		good   bool
	}{
		{"just now and well", map[string]any{"acr": "gold", "auth_time": noon.Unix() - 600}, true},
		{"too long ago", map[string]any{"acr": "gold", "auth_time": noon.Unix() - 601}, false},
		{"when, nobody says", map[string]any{"acr": "gold"}, false},
		{"badly", map[string]any{"acr": "bronze", "auth_time": noon.Unix()}, false},
		{"how, nobody says", map[string]any{"auth_time": noon.Unix()}, false},
	} {
		_, refusal := p.Verify(token(t, jose.ES256, tt.claims), noon)
		if (refusal == nil) != tt.good {
			t.Errorf("%s: %+v", tt.name, refusal)
		}
		if want := `, acr_values="gold silver", max_age="600"`; refusal != nil && (!strings.HasPrefix(refusal.Challenge, `Bearer error="insufficient_user_authentication"`) || !strings.HasSuffix(refusal.Challenge, want)) {
			t.Errorf("%s: challenge %s", tt.name, refusal.Challenge)
		}
	}
}

func TestSeveralIssuers(t *testing.T) {
	body := bodyOf(t, jose.ES256)
	body.Issuers = append(body.Issuers, &snapshot.Issuer{Issuer: "https://b.example", Keys: setOfKeys(t, jose.RS256)})
	p := compiled(t, body)
	for _, tt := range []struct {
		with   jose.SignatureAlgorithm
		issuer string
		good   bool
	}{{jose.ES256, idp, true}, {jose.RS256, "https://b.example", true}, {jose.RS256, idp, false}, {jose.ES256, "https://b.example", false}} {
		if _, refusal := p.Verify(token(t, tt.with, map[string]any{"iss": tt.issuer}), noon); (refusal == nil) != tt.good {
			t.Errorf("%s of %s: %+v", tt.with, tt.issuer, refusal)
		}
	}
}

func TestWhatIsNotUnderstoodIsNotInForce(t *testing.T) {
	bad := bodyOf(t, jose.ES256)
	bad.Sources = []*snapshot.TokenSource{{Kind: 9}}
	if _, err := Compile(bad, nil, nil); err == nil {
		t.Error("a place of tokens that is unknown")
	}
	bad = bodyOf(t, jose.ES256)
	bad.Issuers[0].Keys = []byte("{")
	if _, err := Compile(bad, nil, nil); err == nil {
		t.Error("keys that are none")
	}
	if p, err := Compile(nil, nil, nil); p != nil || err != nil || !p.Optional() {
		t.Error("nothing is something")
	}
}

// TestManyTokens has more than are kept.
func TestManyTokens(t *testing.T) {
	var c cache
	for i := range 20 * cacheSets * cacheWays {
		id := tokenID(string(rune(i)) + "-" + strings.Repeat("x", i%7))
		c.put(&id, &proof{until: noon.Add(time.Duration(i))})
		if p := c.get(&id); p == nil || !p.until.Equal(noon.Add(time.Duration(i))) {
			t.Fatalf("%d is not there", i)
		}
	}
	n := 0
	for i := range c.sets {
		if set := c.sets[i].Load(); set != nil {
			for j := range set {
				if set[j].Load() != nil {
					n++
				}
			}
		}
	}
	if n > cacheSets*cacheWays {
		t.Errorf("%d are kept", n)
	}
	long := bodyOf(t, jose.ES256)
	p := compiled(t, long)
	one := token(t, jose.ES256, map[string]any{"x": strings.Repeat("x", maxKeptBytes)})
	if _, refusal := p.Verify(one, noon); refusal != nil {
		t.Fatalf("%+v", refusal)
	}
	if id := tokenID(one); p.proven.get(&id) != nil {
		t.Error("a long one is kept")
	}
}

func TestASeenTokenCostsNothing(t *testing.T) {
	body := bodyOf(t, jose.ES256)
	body.Headers = []*snapshot.ClaimHeader{{Name: "X-User", Claim: []string{"sub"}}}
	p := compiled(t, body)
	value := "Bearer " + token(t, jose.ES256, map[string]any{"groups": strings.Split(strings.Repeat("group ", 40), " ")})
	req := &exchange.Request{Path: "/", Fields: make(exchange.Fields, 0, 8)}
	if n := testing.AllocsPerRun(100, func() {
		req.Fields = append(req.Fields[:0], exchange.Field{Name: "Accept", Value: "*/*"}, exchange.Field{Name: "Authorization", Value: value})
		if user, refusal := p.Admit(req, noon); user == nil || refusal != nil {
			t.Errorf("%+v", refusal)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSeen(b *testing.B) {
	p := compiled(b, bodyOf(b, jose.ES256))
	req := withToken(token(b, jose.ES256, map[string]any{"groups": strings.Split("one two three four five six", " "), "email": "alice@example.com"}))
	b.ReportAllocs()
	for b.Loop() {
		if _, refusal := p.Admit(req, noon); refusal != nil {
			b.Fatal(refusal)
		}
	}
}

func BenchmarkNew(b *testing.B) {
	for _, a := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.PS256, jose.EdDSA, jose.ES384} {
		b.Run(string(a), func(b *testing.B) {
			p := compiled(b, bodyOf(b, a))
			one := token(b, a, map[string]any{"groups": strings.Split("one two three four five six", " "), "email": "alice@example.com"})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.verify(one); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzTokens has tokens and key sets of strangers: nothing but the signer's own token is ever good, and nothing panics.
func FuzzTokens(f *testing.F) {
	good := token(f, jose.ES256, nil)
	f.Add(good, []byte(`{"keys":[]}`))
	f.Add(strings.Replace(good, "a", "b", 1), setOfKeys(f, jose.ES256))
	f.Add("..", setOfKeys(f, jose.RS256, jose.EdDSA))
	p := compiled(f, bodyOf(f, jose.ES256, jose.RS256))
	f.Fuzz(func(t *testing.T, token string, set []byte) {
		if user, refusal := p.Verify(token, noon); (refusal == nil) != (token == good) || refusal == nil && user == nil {
			t.Errorf("%q is of %+v, %+v", token, user, refusal)
		}
		usable, _, err := ReadKeys(set)
		if err != nil {
			return
		}
		if again, skipped, err := ReadKeys(usable); err != nil || len(skipped) > 0 || !bytes.Equal(again, usable) {
			t.Errorf("usable keys are not: %s, %q, %v", again, skipped, err)
		}
		body := bodyOf(t, jose.ES256)
		body.Issuers[0].Keys = usable
		if _, err := Compile(body, nil, nil); err != nil {
			t.Errorf("%s: %v", usable, err)
		}
	})
}
