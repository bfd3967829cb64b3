package registry

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// InstanceSubject names the record of one instance.
func InstanceSubject(node string, key Key) string {
	return instancePrefix + snapshot.Escape(key.Service.Namespace) + "." + snapshot.Escape(key.Service.Name) + "." + snapshot.Escape(node) + "." + snapshot.Escape(key.Name)
}

// LivenessSubject names the leader's word on a node.
func LivenessSubject(node string) string { return livenessPrefix + snapshot.Escape(node) }

func parseInstanceSubject(subject string) (node string, key Key, err error) {
	tokens := strings.Split(strings.TrimPrefix(subject, instancePrefix), ".")
	if len(tokens) != 4 || !strings.HasPrefix(subject, instancePrefix) {
		return "", Key{}, fmt.Errorf("not the subject of an instance")
	}
	for i, token := range tokens {
		if tokens[i], err = snapshot.Unescape(token); err != nil {
			return "", Key{}, err
		}
	}
	return tokens[2], Key{exchange.ServiceName{Namespace: tokens[0], Name: tokens[1]}, tokens[3]}, nil
}

// checkRegistration refuses what could not have come from a file of services.d: the node is somebody else's
// program, and what it says goes into the configuration of others.
func checkRegistration(node string, in *snapshot.Instance, removed bool) (Key, error) {
	bad := func(format string, args ...any) (Key, error) {
		return Key{}, fmt.Errorf("register an instance of node %s: %w: %s", node, ErrInvalid, fmt.Sprintf(format, args...))
	}
	service, err := exchange.ParseServiceName(in.GetService())
	switch {
	case err != nil:
		return bad("%v", err)
	case in.GetNode() != node:
		return bad("it names node %q", in.GetNode())
	case !isInstanceName(in.GetInstance()):
		return bad("its name is %q", in.GetInstance())
	}
	key := Key{service, in.GetInstance()}
	if removed {
		return key, nil
	}
	if lane, err := netip.ParseAddrPort(in.GetLaneAddress()); err != nil || lane.Port() == 0 || lane.Addr().IsUnspecified() || lane.Addr().IsMulticast() {
		return bad("its lane address is %q", in.GetLaneAddress())
	}
	if len(in.GetLabels()) > maxLabels {
		return bad("it has %d labels", len(in.GetLabels()))
	}
	for name, value := range in.GetLabels() {
		if !isLabelKey(name) || !isLabelValue(value) {
			return bad("its label is %q: %q", name, value)
		}
	}
	if !IsPlace(in.GetZone()) || !IsPlace(in.GetRegion()) {
		return bad("its zone is %q, its region %q", in.GetZone(), in.GetRegion())
	}
	if in.GetWeight() > maxWeight {
		return bad("its weight is %d", in.GetWeight())
	}
	if g := in.GetGateway(); g != nil {
		if err := checkGateway(g); err != nil {
			return bad("%v", err)
		}
	}
	if in.GetEgress() && (len(in.GetPorts()) > 0 || in.GetGateway() != nil) || len(in.GetPorts()) == 0 && in.GetGateway() == nil && !in.GetEgress() || len(in.GetPorts()) > maxPorts {
		return bad("it has %d ports", len(in.GetPorts()))
	}
	seen := map[uint32]bool{}
	for _, p := range in.GetPorts() {
		_, err := netip.ParseAddrPort(p.GetAddress())
		if p.GetNumber() == 0 || p.GetNumber() > 65535 || seen[p.GetNumber()] || err != nil || p.GetName() != "" && !exchange.IsLabel(p.GetName()) {
			return bad("its port is %d %q at %q", p.GetNumber(), p.GetName(), p.GetAddress())
		}
		seen[p.GetNumber()] = true
	}
	if len(in.GetHealthDetail()) > 200 {
		return bad("its health takes %d bytes to tell", len(in.GetHealthDetail()))
	}
	return key, nil
}
