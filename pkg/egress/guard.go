package egress

import (
	"fmt"
	"net"
	"net/netip"
)

// never are addresses that no document can allow: the host's own, those of its link, and where clouds tell hosts their
// secrets. Only the file of services.d on that host can.
var never = prefixes(
	"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
	"100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", // metadata of Alibaba Cloud, Azure and Oracle Cloud
	"::/128", "::1/128", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::/32", "fd20:ce::/32", // the last two: metadata of AWS and Google Cloud
	"2002::/16", "2001::/32", // 6to4 and Teredo: each holds an address of IPv4 that would have to be looked at
)

// private are networks of somebody's own: an ExternalService reaches them where its allowedAddresses say so.
var private = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "fc00::/7")

// nat64 holds an address of IPv4 in its last four bytes (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

func within(a netip.Addr, all []netip.Prefix) bool {
	for _, p := range all {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// refuse says why an address is not connected to, or nothing. own are the addresses of this host.
func (h *Host) refuse(a netip.Addr, own []netip.Addr) string {
	if a.Zone() != "" {
		return fmt.Sprintf("%s is of one link of the egress host", a)
	}
	a = a.Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	mine := within(a, never)
	for _, one := range own {
		mine = mine || one == a
	}
	switch {
	case mine && !within(a, h.local):
		return fmt.Sprintf("%s is of the egress host itself, its link or its cloud, and only egress.allow of services.d there opens it", a)
	case len(h.allowed) > 0 && !within(a, h.allowed):
		return fmt.Sprintf("%s is not in allowedAddresses of the ExternalService", a)
	case len(h.allowed) == 0 && within(a, private) && !within(a, h.local):
		return fmt.Sprintf("%s is private, and only allowedAddresses of the ExternalService open it", a)
	}
	return ""
}

// ownAddresses are those of this host's interfaces.
func ownAddresses() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this host, which are not connected to: %w", err)
	}
	var all []netip.Addr
	for _, a := range found {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p.Addr().Unmap().WithZone(""))
		}
	}
	return all, nil
}
