package compile

import (
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// callers are the labels of all that may call under a name, by the documents of Services and Gateways. Labels of instances
// are not among them: nodes claim these, and the certificate of a service does not tell its instances apart.
type callers map[exchange.ServiceName]map[string]string

func callersOf(in Input) callers {
	all := make(callers, len(in.Services)+len(in.Gateways))
	for _, g := range in.Gateways {
		all[exchange.ServiceName{Namespace: g.Namespace, Name: g.Name}] = g.Labels
	}
	for _, s := range in.Services {
		all[exchange.ServiceName{Namespace: s.Namespace, Name: s.Name}] = s.Labels
	}
	return all
}

// labelled are the names of those with all of these labels, in order.
func (c callers) labelled(labels map[string]string) []string {
	var names []string
	for name, has := range c {
		every := true
		for key, value := range labels {
			got, there := has[key]
			every = every && there && got == value
		}
		if every {
			names = append(names, name.String())
		}
	}
	slices.Sort(names)
	return names
}

// source compiles who calls. Labels are written out as the names of the services that have them now. false: nobody has
// them, and nobody is meant.
func (c callers) source(f *api.AuthorizationSource) (*snapshot.AuthorizationSource, bool) {
	s := &snapshot.AuthorizationSource{
		Services: f.Services, Namespaces: f.Namespaces, NotServices: f.NotServices, NotNamespaces: f.NotNamespaces,
		TrustDomains: f.TrustDomains, NotTrustDomains: f.NotTrustDomains, Nodes: f.Nodes, NotNodes: f.NotNodes, Plaintext: f.Plaintext,
	}
	if len(f.NotLabels) > 0 {
		s.NotServices = append(slices.Clone(s.NotServices), c.labelled(f.NotLabels)...)
	}
	if len(f.Labels) == 0 {
		return s, true
	}
	named := s.Services
	s.Services = slices.DeleteFunc(c.labelled(f.Labels), func(name string) bool { return len(named) > 0 && !slices.Contains(named, name) })
	return s, len(s.Services) > 0
}

var headerKinds = map[string]snapshot.AuthorizationHeader_Kind{
	api.AuthorizationExact:        snapshot.AuthorizationHeader_EXACT,
	api.AuthorizationHeaderPrefix: snapshot.AuthorizationHeader_PREFIX,
	api.AuthorizationSuffix:       snapshot.AuthorizationHeader_SUFFIX,
	api.AuthorizationPresent:      snapshot.AuthorizationHeader_PRESENT,
}

func authorizationHeaders(headers []api.AuthorizationHeader) []*snapshot.AuthorizationHeader {
	var all []*snapshot.AuthorizationHeader
	for _, h := range headers {
		all = append(all, &snapshot.AuthorizationHeader{Name: strings.ToLower(h.Name), Kind: headerKinds[h.Type], Value: h.Value})
	}
	return all
}

// hasConditions reports whether policies ask for more than nodes of before FeatureAuthorizationConditions know. Such nodes
// let nobody in; a dry run, which is to refuse nobody, does not ask for that, and counts wrongly there.
func hasConditions(body *snapshot.Authorization) bool {
	for _, p := range body.GetPolicies() {
		if p.DryRun {
			continue
		}
		for _, r := range p.Rules {
			if len(r.When) > 0 {
				return true
			}
			for _, f := range r.From {
				if len(f.TrustDomains)+len(f.NotTrustDomains)+len(f.Nodes)+len(f.NotNodes) > 0 || f.Plaintext {
					return true
				}
			}
			for _, t := range r.To {
				if len(t.Headers)+len(t.NotHeaders)+len(t.Hosts)+len(t.NotHosts) > 0 {
					return true
				}
			}
		}
	}
	return false
}
