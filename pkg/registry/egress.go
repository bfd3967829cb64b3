package registry

import (
	"net/netip"

	"go.yaml.in/yaml/v3"
)

// An Egress says that the node itself carries the calls of an ExternalService out of the mesh. Where it leads is not
// said here, so that nobody but the controllers decides what a node connects to.
type Egress struct {
	Allow []netip.Prefix // addresses of the host itself, its link and private networks that may be connected to
}

// maxAllowed bounds the prefixes of one egress.
const maxAllowed = 64

func (r *reader) egress(n *yaml.Node, path string) *Egress {
	out := &Egress{}
	r.object(n, path, map[string]func(*yaml.Node, string){
		"allow": func(n *yaml.Node, path string) {
			r.list(n, path, func(n *yaml.Node, path string) {
				s := r.string(n, path)
				p, err := netip.ParsePrefix(s)
				if s != "" && (err != nil || p != p.Masked() || p.Addr().Is4In6()) {
					r.fail(n, path, "must be a prefix of IP addresses such as 10.1.0.0/16 or 127.0.0.1/32, with zeros behind it, is %q", n.Value)
				}
				out.Allow = append(out.Allow, p)
			})
			if len(out.Allow) > maxAllowed {
				r.fail(n, path, "has %d prefixes, at most %d are allowed", len(out.Allow), maxAllowed)
			}
		},
	})
	return out
}
