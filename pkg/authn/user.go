package authn

import (
	"errors"
	"fmt"
	"sync"
)

// A User is what was proven about the end user of a request. It never changes, and requests share it; it must not be copied. A nil User is
// somebody of whom nothing was proven.
type User struct {
	issuer, subject string
	audiences       []string
	claims          Value // an object

	derive  sync.Once
	derived any
}

// ParseUser reads the claims of a token, a JSON object, whose signature was verified. It refuses what is larger, deeper or
// otherwise than claims are (Value), and a registered claim that is not of its type (RFC 7519 §4.1).
func ParseUser(claims []byte) (*User, error) {
	all, err := parse(claims)
	if err != nil {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	if all.kind != Object {
		return nil, errors.New("read claims: they are no object")
	}
	u := &User{claims: all}
	for name, to := range map[string]*string{"iss": &u.issuer, "sub": &u.subject} {
		if v, there := all.Member(name); there {
			if v.kind != String {
				return nil, fmt.Errorf("read claims: %s is no string", name)
			}
			*to = v.text
		}
	}
	if v, there := all.Member("aud"); there {
		if v.kind != List {
			v = Value{kind: List, items: []Value{v}}
		}
		for _, a := range v.items {
			if a.kind != String {
				return nil, errors.New("read claims: aud is neither a string nor a list of strings")
			}
			u.audiences = append(u.audiences, a.text)
		}
	}
	return u, nil
}

// Issuer is who says so; empty: the token does not tell.
func (u *User) Issuer() string {
	if u == nil {
		return ""
	}
	return u.issuer
}

// Subject is who the user is to the issuer; empty: the token does not tell.
func (u *User) Subject() string {
	if u == nil {
		return ""
	}
	return u.subject
}

// Audiences are for whom the token was made. The caller must not change them.
func (u *User) Audiences() []string {
	if u == nil {
		return nil
	}
	return u.audiences
}

// Derived is what by makes of the user, which is kept with it: by is called once, and every call must be with the same.
func (u *User) Derived(by func(*User) any) any {
	u.derive.Do(func() { u.derived = by(u) })
	return u.derived
}

// Claims are all claims, an object; of a nil User it is Null.
func (u *User) Claims() Value {
	if u == nil {
		return Value{}
	}
	return u.claims
}

// Claim is what the user's token says under a path of names: Claim("realm_access", "roles") is roles in realm_access. It
// allocates nothing.
func (u *User) Claim(path ...string) (Value, bool) {
	if u == nil {
		return Value{}, false
	}
	v := &u.claims
	for _, name := range path {
		if v = v.member(name); v == nil {
			return Value{}, false
		}
	}
	return *v, true
}
