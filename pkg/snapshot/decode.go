package snapshot

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
)

// A Kind is what a subject of configuration carries.
type Kind string

// The kinds of configuration, as the third token of their subjects.
const (
	KindOut       Kind = "out"
	KindIn        Kind = "in"
	KindEndpoints Kind = "endpoints"
	KindNode      Kind = "node"
	KindBeat      Kind = "beat"
	KindRoster    Kind = "roster"
	KindBundle    Kind = "bundle"
	KindRevoked   Kind = "revoked"
)

// Names of a subject, as ParseSubject finds them.
type Names struct {
	Kind      Kind
	Namespace string // of KindOut, KindIn and KindEndpoints
	Service   string // the same
	Callers   string // of KindOut: the callers' namespace; empty where it is for all others
	Shard     uint32 // of KindEndpoints
	Node      string // of KindNode
}

// ParseSubject reads what OutSubject and its sisters write, and refuses everything else.
func ParseSubject(subject string) (Names, error) {
	rest, ok := strings.CutPrefix(subject, ConfigPrefix)
	tokens := strings.Split(rest, ".")
	names := Names{Kind: Kind(tokens[0])}
	var err error
	name := func(i int) string {
		s, bad := Unescape(tokens[i])
		if bad != nil && err == nil {
			err = bad
		}
		return s
	}
	switch {
	case !ok:
		err = ErrMalformed
	case names.Kind == KindOut && len(tokens) == 4:
		names.Namespace, names.Service = name(1), name(2)
		if tokens[3] != AllCallers {
			names.Callers = name(3)
		}
	case names.Kind == KindIn && len(tokens) == 3:
		names.Namespace, names.Service = name(1), name(2)
	case names.Kind == KindEndpoints && len(tokens) == 4:
		names.Namespace, names.Service = name(1), name(2)
		if _, bad := fmt.Sscanf(tokens[3], "%d", &names.Shard); bad != nil {
			err = ErrMalformed
		} else if EndpointsSubject(names.Namespace, names.Service, names.Shard) != subject && err == nil {
			err = ErrMalformed
		}
	case names.Kind == KindNode && len(tokens) == 2:
		names.Node = name(1)
	case (names.Kind == KindBeat || names.Kind == KindRoster || names.Kind == KindBundle || names.Kind == KindRevoked) && len(tokens) == 1:
	default:
		err = ErrMalformed
	}
	if err != nil {
		return Names{}, fmt.Errorf("subject %q: %w", subject, err)
	}
	return names, nil
}

// Decode reads a body by its subject's kind: *Outbound, *Inbound, *Endpoints, *NodeConfig, *Bundle, *Revocations or *Beat.
func Decode(subject string, body []byte) (proto.Message, error) {
	names, err := ParseSubject(subject)
	if err != nil {
		return nil, err
	}
	var m proto.Message
	switch names.Kind {
	case KindOut:
		m = new(Outbound)
	case KindIn:
		m = new(Inbound)
	case KindEndpoints:
		m = new(Endpoints)
	case KindNode:
		m = new(NodeConfig)
	case KindBundle:
		m = new(Bundle)
	case KindRevoked:
		m = new(Revocations)
	case KindBeat:
		m = new(Beat)
	default:
		return nil, fmt.Errorf("decode %s: %w: no body of its own", subject, ErrMalformed)
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("decode %s: %w: %w", subject, ErrMalformed, err)
	}
	return m, nil
}
