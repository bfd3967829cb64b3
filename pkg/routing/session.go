package routing

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A session is what a rule says of requests that belong together (GEP-1619): the first goes where the weights and the
// algorithm say, and the answer has a token, with which the others go to the same instance.
//
// A token is 24 bytes in base64: when the session began, in Unix seconds (4), the instance (8), and the first 12 bytes of a
// hash over both with the rule's key. Who has no key can make no token: else those outside could choose their instance, and
// come to a version that has no weight yet. The instance is masked, so that two tokens do not show that they are of one.
type session struct {
	name     string
	header   bool          // else it is a cookie
	timeout  time.Duration // since the session began; 0: none
	cookie   string        // the attributes
	key      [sessionKey]byte
	masking  uint64     // of key
	backends []*backend // those without a weight too
}

const (
	sessionKey   = 32
	tokenBytes   = 24
	tokenLength  = tokenBytes / 3 * 4 // in base64
	tokenMACSize = 12
)

func compileSession(s *snapshot.Session, m *match) (*session, error) {
	if s == nil {
		return nil, nil
	}
	if s.Name == "" || len(s.Key) != sessionKey {
		return nil, fmt.Errorf("session: the name %q with a key of %d bytes; it needs both, and %d", s.Name, len(s.Key), sessionKey)
	}
	c := &session{name: s.Name, header: s.Header, timeout: time.Duration(s.TimeoutMs) * time.Millisecond}
	copy(c.key[:], s.Key)
	masking := c.hash(0, 0) // of a token that would be of 1970
	c.masking = binary.BigEndian.Uint64(masking[:])
	// Lax: with Strict a link from elsewhere would begin another session, and end this one.
	c.cookie = "; Path=" + cookiePath(m.path) + "; HttpOnly; SameSite=Lax"
	if s.Permanent {
		c.cookie += "; Max-Age=" + strconv.FormatInt(int64(c.timeout/time.Second), 10)
	}
	return c, nil
}

// cookiePath is the part of the paths that a rule matches which they have in common (GEP-1619, "Path").
func cookiePath(m *matcher) string {
	if m == nil {
		return "/"
	}
	path := m.value
	if m.kind == snapshot.StringMatch_REGEX {
		path = ""
		if e, err := regexp.Compile(m.value); err == nil {
			path, _ = e.LiteralPrefix()
		}
		path = path[:strings.LastIndexByte(path, '/')+1]
	}
	if path == "" || strings.ContainsAny(path, ";,") { // what would end the attribute
		return "/"
	}
	return path
}

// text is the token as a request has it; empty where it has none.
func (s *session) text(req *exchange.Request) string {
	if req == nil {
		return ""
	}
	if s.header {
		value, _ := req.Fields.Get(s.name)
		return value
	}
	value, _ := cookie(req, s.name)
	return value
}

// hash is over what a token says, with the rule's key. It is of one size, so that nothing can be appended to what is hashed.
func (s *session) hash(began uint32, what uint64) [sha256.Size]byte {
	var in [sessionKey + 12]byte
	copy(in[:], s.key[:])
	binary.BigEndian.PutUint32(in[sessionKey:], began)
	binary.BigEndian.PutUint64(in[sessionKey+4:], what)
	return sha256.Sum256(in[:])
}

// mask hides an instance: it is a number for each end of a token.
func (s *session) mask(end []byte) uint64 {
	return mixed(s.masking ^ binary.BigEndian.Uint64(end))
}

// read returns the instance that a token names, as place does; false where it is none of this rule's, or has ended.
func (s *session) read(token string, now int64) (place uint64, ok bool) {
	if len(token) != tokenLength {
		return 0, false
	}
	var text [tokenLength]byte
	var raw [tokenBytes]byte
	copy(text[:], token)
	if n, err := base64.RawURLEncoding.Decode(raw[:], text[:]); err != nil || n != tokenBytes {
		return 0, false
	}
	began, masked := binary.BigEndian.Uint32(raw[:]), binary.BigEndian.Uint64(raw[4:])
	place = masked ^ s.mask(raw[12:])
	h := s.hash(began, place)
	if subtle.ConstantTimeCompare(h[:tokenMACSize], raw[12:]) != 1 {
		return 0, false
	}
	if s.timeout > 0 && now/int64(time.Second)-int64(began) >= int64(s.timeout/time.Second) {
		return 0, false
	}
	return place, true
}

// token is that of a session that begins now.
func (s *session) token(place uint64, now int64) string {
	began := uint32(now / int64(time.Second))
	var raw [tokenBytes]byte
	binary.BigEndian.PutUint32(raw[:], began)
	h := s.hash(began, place)
	copy(raw[12:], h[:tokenMACSize])
	binary.BigEndian.PutUint64(raw[4:], place^s.mask(raw[12:]))
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// place is an instance of the backend, as tokens name it.
func (b *backend) place(i *Instance) uint64 { return i.hash ^ b.id }

// backendID tells the backends of a rule apart, which may have instances in common.
func backendID(service exchange.ServiceName, port uint32) uint64 {
	return hashed(hashed(hashed(3, service.Namespace), service.Name), strconv.Itoa(int(port)))
}

// resume finds the instance of the session that the request belongs to; nil where it belongs to none.
func (d *Decision) resume(s *session, call *Call, req *exchange.Request) *backend {
	d.session = s
	token := s.text(req)
	if token == "" {
		return nil
	}
	place, ok := s.read(token, call.Now.UnixNano())
	if !ok {
		return nil
	}
	for _, b := range s.backends {
		if b.pool == nil {
			continue
		}
		if m, ok := b.pool.set.Load().group(b.port).known(place ^ b.id); ok {
			d.resumed = m
			return b
		}
	}
	return nil
}

// sessionMember is the instance of the request's session, while it can be taken.
func (d *Decision) sessionMember(g *group, tried []*load, now int64) (member, bool) {
	if d.resumed.instance == nil {
		return member{}, false
	}
	i := d.resumed.instance
	if slices.Contains(tried, i.load) || i.skipped(now) || d.backend.heeds(now) && i.standing.isEjected(now) {
		return member{}, false
	}
	return d.resumed, d.resumed.healthy || len(g.healthy) == 0
}

// tell adds the token to the response where a session begins, or goes on elsewhere.
func (d *Decision) tell(response *exchange.Response) {
	if d.session == nil || d.Instance == nil || d.backend == nil {
		return
	}
	if d.resumed.instance != nil && d.resumed.instance.key == d.Instance.key {
		return
	}
	s := d.session
	token := s.token(d.backend.place(d.Instance), d.taken)
	if s.header {
		response.Fields.Set(s.name, token)
		return
	}
	value := s.name + "=" + token + s.cookie
	if d.secure {
		value += "; Secure"
	}
	response.Fields = append(response.Fields, exchange.Field{Name: "Set-Cookie", Value: value})
}
