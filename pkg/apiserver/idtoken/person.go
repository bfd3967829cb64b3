package idtoken

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
)

// reserved is what names begin with that no provider may give.
const reserved = "system:"

// person reads the claims of a token that was proven.
func (v *Verifier) person(token *oidc.IDToken) (Person, error) {
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		return Person{}, errors.New("its claims cannot be read")
	}
	name, _ := claims[v.cfg.UsernameClaim].(string)
	if name == "" {
		return Person{}, fmt.Errorf("it has no claim %q, which names the user", v.cfg.UsernameClaim)
	}
	// Somebody may call himself by an address that is not his, where the provider says that it did not look.
	if verified, said := claims["email_verified"]; v.cfg.UsernameClaim == "email" && said && verified != true {
		return Person{}, errors.New("its address is not verified by the provider")
	}
	p := Person{User: v.cfg.UsernamePrefix + name, Expires: token.Expiry}
	if !nameable(p.User) {
		return Person{}, fmt.Errorf("its claim %q names nobody who can be an operator", v.cfg.UsernameClaim)
	}
	if v.cfg.GroupsClaim == "" {
		return p, nil
	}
	var groups []any
	switch claim := claims[v.cfg.GroupsClaim].(type) {
	case nil:
	case string:
		groups = []any{claim}
	case []any:
		groups = claim
	default:
		return Person{}, fmt.Errorf("its claim %q is neither a group nor a list of them", v.cfg.GroupsClaim)
	}
	if len(groups) > maxGroups {
		return Person{}, fmt.Errorf("its claim %q has %d groups, more than %d (let the provider send those alone that roles are bound to)", v.cfg.GroupsClaim, len(groups), maxGroups)
	}
	for _, g := range groups {
		name, ok := g.(string)
		if !ok {
			return Person{}, fmt.Errorf("its claim %q holds what is no name", v.cfg.GroupsClaim)
		}
		if group := v.cfg.GroupsPrefix + name; name != "" && nameable(group) { // another one makes nobody more
			p.Groups = append(p.Groups, group)
		}
	}
	return p, nil
}

// nameable tells whether a provider may name a user or group so.
func nameable(name string) bool {
	return len(name) <= maxNameSize && !strings.HasPrefix(name, reserved) && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
