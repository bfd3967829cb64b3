package routing

import (
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// hashKeys are what of a request is hashed: the first of them that it has.
type hashKeys struct {
	node string // whose table it is: with the caller, the source of calls inside of the mesh
	keys []*snapshot.HashKey
}

// hash is that of a request; false where it has none of the keys. req is nil where the bytes are not looked at.
func (k *hashKeys) hash(call *Call, req *exchange.Request) (h uint64, has bool) {
	for _, key := range k.keys {
		switch key.Type {
		case snapshot.HashKey_SOURCE:
			return k.source(call), true
		case snapshot.HashKey_HEADER:
			if req == nil {
				continue
			}
			if exchange.EqualName(key.Name, "host") {
				if req.Authority != "" {
					return hashed(0, req.Authority), true
				}
				continue
			}
			if value, there := req.Fields.Get(key.Name); there {
				return hashed(0, value), true
			}
		case snapshot.HashKey_COOKIE:
			if value, there := cookie(req, key.Name); there {
				return hashed(0, value), true
			}
		case snapshot.HashKey_QUERY:
			if h, there := hashedQuery(req, key.Name); there {
				return h, true
			}
		}
	}
	return 0, false
}

// source is the client's address at a gateway. Inside of the mesh all connections come from the caller's own host: it is
// the host and the calling service.
func (k *hashKeys) source(call *Call) uint64 {
	if call.Source.IsValid() {
		address := call.Source.As16()
		return hashed(1, string(address[:]))
	}
	return hashed(hashed(hashed(2, k.node), call.Caller.Namespace), call.Caller.Name)
}

// cookie returns the value of the first cookie of a name (RFC 6265 §5.4).
func cookie(req *exchange.Request, name string) (value string, has bool) {
	if req == nil {
		return "", false
	}
	for i := range req.Fields {
		if !exchange.EqualName(req.Fields[i].Name, "cookie") {
			continue
		}
		for rest := req.Fields[i].Value; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			if n, v, ok := strings.Cut(strings.Trim(pair, " \t"), "="); ok && n == name {
				return v, true
			}
		}
	}
	return "", false
}

// hashedQuery hashes what the first parameter of a name means, however it is encoded.
func hashedQuery(req *exchange.Request, name string) (h uint64, has bool) {
	if req == nil {
		return 0, false
	}
	_, query, _ := strings.Cut(req.Path, "?")
	for query != "" {
		var parameter string
		parameter, query, _ = strings.Cut(query, "&")
		n, value, _ := strings.Cut(parameter, "=")
		if parameter == "" || !formEqual(n, name) {
			continue
		}
		if !strings.ContainsAny(value, "%+") {
			return hashed(0, value), true
		}
		var plain [256]byte // of a longer value the rest does not count
		length := 0
		for value != "" && length < len(plain) {
			plain[length], value = formByte(value)
			length++
		}
		return hashed(0, text(plain[:length])), true
	}
	return 0, false
}
