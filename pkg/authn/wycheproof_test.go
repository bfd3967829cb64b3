package authn

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// TestWycheproof runs the vectors of Project Wycheproof for JSON web signatures, from the file that it publishes
// (testdata/wycheproof). A token is good here where Wycheproof says so, but for those that are named.
func TestWycheproof(t *testing.T) {
	text, err := os.ReadFile("testdata/wycheproof/json_web_signature_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			Comment string
			Public  json.RawMessage
			Private struct{ Kty string }
			Tests   []struct {
				TcID    int `json:"tcId"`
				Comment string
				Jws     any
				Result  string
			}
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	// Valid by what was signed, and not by what their keys are for: RFC 7520 §4.2 signs by PS384, and the key in the file
	// is for PS256; there is no algorithm ES521.
	apart := map[string]bool{"rfc7520: Figure20": true, "rfc7520: Figure27": true, "rfc7520WithKeyOps: Figure20": true, "rfc7520WithKeyOps: Figure27": true}
	ran, accepted, byShared := 0, 0, 0
	for _, g := range file.TestGroups {
		var keys []key
		var skipped []string
		if g.Public != nil {
			if keys, skipped, err = readKeys(slices.Concat([]byte(`{"keys":[`), g.Public, []byte(`]}`))); err != nil {
				t.Fatal(err)
			}
		}
		for _, one := range g.Tests {
			ran++
			text, _ := one.Jws.(string) // JSON serialization is none
			token, err := split(text)
			if err == nil {
				err = token.verify(keys, nil)
			}
			switch good := err == nil; {
			case good && one.Result != "valid":
				t.Errorf("%d (%s: %s) is taken, and is %s", one.TcID, g.Comment, one.Comment, one.Result)
			case good:
				accepted++
			case one.Result == "valid" && g.Private.Kty == "oct": // shared secrets prove nothing here
				byShared++
			case one.Result == "valid" && !apart[g.Comment+": "+one.Comment]:
				t.Errorf("%d (%s: %s) is valid: %v; keys skipped %q", one.TcID, g.Comment, one.Comment, err, skipped)
			}
		}
	}
	if ran != file.NumberOfTests || accepted < 31 || byShared == 0 {
		t.Errorf("%d of %d vectors ran, %d were taken, %d are of shared secrets", ran, file.NumberOfTests, accepted, byShared)
	}
	t.Logf("%d vectors: %d taken, %d valid ones of shared secrets refused", ran, accepted, byShared)
}
