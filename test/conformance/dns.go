package conformance

import (
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// dnsImage is what the suite's manifests name its backend for DNS, CoreDNS with the plug-in whoami. It is no part of the
// suite's source, and serveDNS plays its part.
const dnsImage = "registry.k8s.io/coredns/coredns:"

// playsDNS is set in the environment of a pod's process that is serveDNS.
const playsDNS = "SENNIT_CONFORMANCE_DNS"

// serveDNS answers each question as whoami does: with nothing but the address of whoever asks, as an additional record.
func serveDNS() error {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: 53})
	if err != nil {
		return err
	}
	defer conn.Close()
	datagram := make([]byte, 65535)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(datagram)
		if err != nil {
			return err
		}
		var m dnsmessage.Message
		if m.Unpack(datagram[:n]) != nil || m.Response || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Authoritative = true, true
		m.Additionals = []dnsmessage.Resource{whoami(m.Questions[0].Name, from.Addr().Unmap())}
		answer, err := m.Pack()
		if err != nil {
			return err
		}
		if _, err := conn.WriteToUDPAddrPort(answer, from); err != nil {
			return err
		}
	}
}

func whoami(name dnsmessage.Name, asks netip.Addr) dnsmessage.Resource {
	r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET}}
	if asks.Is4() {
		r.Body = &dnsmessage.AResource{A: asks.As4()}
	} else {
		r.Body = &dnsmessage.AAAAResource{AAAA: asks.As16()}
	}
	return r
}
