package acme

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/acme"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// What to do about a problem, by its type (RFC 8555 §6.7) and by what was asked: the same type has other causes elsewhere.
var (
	ofAccounts = map[string]string{
		"externalAccountRequired": "have its operator make a key for this account, and set eab",
		"unauthorized":            "where the account of accountKeyFile was closed, name another file",
	}
	ofBindings = map[string]string{
		"externalAccountRequired": wrongBinding,
		"malformed":               wrongBinding,
		"unauthorized":            wrongBinding,
		"serverInternal":          wrongBinding, // step-ca's answer to another key
	}
	ofOrders = map[string]string{
		"unauthorized":   "at step-ca, an account belongs to one provisioner: where this one is another, name another accountKeyFile",
		"serverInternal": "its log says more: one cause is a provisioner whose longest time is shorter than what is asked for",
	}
)

const wrongBinding = "compare eab.keyID and the key in eab.hmacKeyFile with what its operator gave out, which may open one account and no second; " +
	"where the account of accountKeyFile was closed, name another file"

// failure tells of what went wrong in the authority's own words, and what to do about it.
func failure(what string, err error, remedies map[string]string) error {
	var no *acme.Error
	if !errors.As(err, &no) {
		return fmt.Errorf("%s: %w", what, shortened{err})
	}
	failed := upstreamca.Failure(what, no.StatusCode, words(no))
	kind, _ := strings.CutPrefix(no.ProblemType, "urn:ietf:params:acme:error:")
	if remedy := remedies[kind]; remedy != "" {
		return fmt.Errorf("%w (%s)", failed, remedy)
	}
	return failed
}

// said is why a challenge is not believed. That it may have the number of a status makes it no answer to a request.
func said(err error) error {
	var no *acme.Error
	if errors.As(err, &no) {
		return fmt.Errorf("%q", upstreamca.Short(words(no)))
	}
	return shortened{err}
}

func words(no *acme.Error) string {
	all := no.ProblemType + ": " + no.Detail
	for _, sub := range no.Subproblems {
		all += "; " + sub.Detail
	}
	return all
}

// shortened is an error whose text may hold an authority's words.
type shortened struct{ error }

func (s shortened) Error() string { return upstreamca.Short(s.error.Error()) }
func (s shortened) Unwrap() error { return s.error }
