package snapshot

import (
	"fmt"
	"strconv"
	"strings"
)

// The subjects of configuration. A name is escaped into one token, so that no name reaches into another's
// subjects; the tokens that start with an underscore are ours and never come from a name.
const (
	ConfigPrefix  = "sennit.config." // what is stored
	LivePrefix    = "sennit.live."   // the same, republished by the server once stored
	BeatSubject   = ConfigPrefix + "beat"
	RosterSubject = ConfigPrefix + "roster"
	BundleSubject = ConfigPrefix + "bundle"
	// RevokedSubject holds Revocations.
	RevokedSubject = ConfigPrefix + "revoked"

	// AllCallers is the last token of an Outbound that is the same for callers of every namespace.
	AllCallers = "_"
)

// OutSubject names what callers of a service need. callers is the namespace whose callers get rules of
// their own, or empty for what all others get.
func OutSubject(namespace, service, callers string) string {
	token := AllCallers
	if callers != "" {
		token = Escape(callers)
	}
	return ConfigPrefix + "out." + Escape(namespace) + "." + Escape(service) + "." + token
}

// InSubject names what the nodes that run a service need.
func InSubject(namespace, service string) string {
	return ConfigPrefix + "in." + Escape(namespace) + "." + Escape(service)
}

// EndpointsSubject names one shard of a service's instances.
func EndpointsSubject(namespace, service string, shard uint32) string {
	return ConfigPrefix + "endpoints." + Escape(namespace) + "." + Escape(service) + "." + strconv.FormatUint(uint64(shard), 10)
}

// NodeSubject names what concerns one node.
func NodeSubject(node string) string {
	return ConfigPrefix + "node." + Escape(node)
}

// Live is where the server republishes what it stored under a subject of configuration. Other subjects
// come back unchanged.
func Live(subject string) string {
	if rest, ok := strings.CutPrefix(subject, ConfigPrefix); ok {
		return LivePrefix + rest
	}
	return subject
}

// Escape makes one token of a subject from a name: letters, digits and '-' stay, every other byte becomes
// '=' and two hexadecimal digits; the empty name is "=". Different names give different tokens, and none
// holds '.', '*', '>', '_', '$' or space.
func Escape(name string) string {
	if name == "" {
		return "="
	}
	plain := true
	for i := 0; i < len(name) && plain; i++ {
		plain = isPlain(name[i])
	}
	if plain {
		return name
	}
	const digits = "0123456789ABCDEF"
	token := make([]byte, 0, len(name)+8)
	for i := 0; i < len(name); i++ {
		if c := name[i]; isPlain(c) {
			token = append(token, c)
		} else {
			token = append(token, '=', digits[c>>4], digits[c&15])
		}
	}
	return string(token)
}

// Unescape gives back the name of a token. It fails for every string that Escape does not return, so that
// no two tokens mean the same name.
func Unescape(token string) (string, error) {
	if token == "=" {
		return "", nil
	}
	name := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		if c == '=' && i+2 < len(token) {
			decoded, err := strconv.ParseUint(token[i+1:i+3], 16, 8)
			if err != nil {
				return "", fmt.Errorf("subject token %q: bad escape at byte %d", token, i)
			}
			c = byte(decoded)
			i += 2
		}
		name = append(name, c)
	}
	if Escape(string(name)) != token || token == "" {
		return "", fmt.Errorf("subject token %q is not an escaped name", token)
	}
	return string(name), nil
}

func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-'
}
