package egress

import (
	"fmt"
	"net"
	"net/netip"
)

// metadata are addresses at which clouds answer their own virtual machines with credentials, beside 169.254.169.254,
// which is of the link like the whole of its prefix.
var metadata = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
}

// nat64 is the prefix whose last 32 bits are an IPv4 address (RFC 6052 §2.1).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// check says whether an address may be connected to. What the document allows it allows by name, and nothing else
// then; otherwise everything is allowed but what is the host's own, of its link, or a cloud's metadata.
func (h *Host) check(a netip.Addr) error {
	if len(h.allowed) > 0 {
		for _, prefix := range h.allowed {
			if prefix.Contains(a) {
				return nil
			}
		}
		return fmt.Errorf("%w: %s is not in allowedAddresses of the ExternalService", ErrRefused, a)
	}
	if what := special(a); what != "" {
		return fmt.Errorf("%w: %s is %s; allowedAddresses of the ExternalService can allow it", ErrRefused, a, what)
	}
	return nil
}

// special says what an address is that is refused unless it is allowed by name, and nothing of others.
func special(a netip.Addr) string {
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.Is4() && a.As4()[0] == 0:
		return "the egress host itself"
	case a.IsLinkLocalUnicast():
		return "of the egress host's link, where clouds have their metadata"
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "not of one host"
	}
	for _, m := range metadata {
		if a == m {
			return "a cloud's metadata"
		}
	}
	own, _ := net.InterfaceAddrs() // without them the others above still hold
	for _, o := range own {
		if n, ok := o.(*net.IPNet); ok {
			if mine, ok := netip.AddrFromSlice(n.IP); ok && mine.Unmap() == a {
				return "the egress host itself"
			}
		}
	}
	return ""
}
