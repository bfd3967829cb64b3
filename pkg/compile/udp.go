package compile

import (
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// isUDP reports whether flows of datagrams go to what a port speaks, and no connections.
func isUDP(p snapshot.Protocol) bool { return p == snapshot.Protocol_PROTOCOL_UDP }

// portID is how configuration numbers a port that an instance registered.
func portID(p *snapshot.InstancePort) uint32 {
	return snapshot.PortID(uint16(p.Number), isUDP(p.Protocol))
}

// udpAsHTTP is tcpAsHTTP of a UDPRoute.
func udpAsHTTP(route *gatewayv1.UDPRoute) *gatewayv1.HTTPRoute {
	as := &gatewayv1.HTTPRoute{ObjectMeta: route.ObjectMeta}
	as.Spec.CommonRouteSpec = route.Spec.CommonRouteSpec
	for _, rule := range route.Spec.Rules {
		as.Spec.Rules = append(as.Spec.Rules, ruleOfConnections(rule.Name, rule.BackendRefs))
	}
	return as
}

// PortName is a port of a body's as people write it.
func PortName(id uint32) string {
	number, udp := snapshot.Port(id)
	name := strconv.Itoa(int(number))
	if udp {
		name += "/UDP"
	}
	return name
}

// hasUDP reports whether a body has ports of UDP, which are numbered beyond all others.
func hasUDP(body proto.Message) bool {
	switch body := body.(type) {
	case *snapshot.Outbound:
		return slices.ContainsFunc(body.Ports, func(p *snapshot.OutboundPort) bool { return isUDP(p.Protocol) })
	case *snapshot.Inbound:
		if slices.ContainsFunc(body.GetIngress().GetListeners(), func(l *snapshot.IngressListener) bool { return l.Port >= snapshot.UDPPort }) {
			return true
		}
		return slices.ContainsFunc(body.Ports, func(p *snapshot.InboundPort) bool { return isUDP(p.Protocol) })
	case *snapshot.Endpoints:
		for _, e := range body.Endpoints {
			if slices.ContainsFunc(e.Ports, func(p *snapshot.EndpointPort) bool { return p.Number >= snapshot.UDPPort }) {
				return true
			}
		}
	}
	return false
}
