package registry

import "go.yaml.in/yaml/v3"

// egress reads whether the node itself is the instance: a way out of the mesh. Where it leads is not said here, so
// that nobody but the controllers decides what a node connects to.
func (r *reader) egress(n *yaml.Node, path string) bool {
	if !r.is(n, path, yaml.ScalarNode, "true") {
		return false
	}
	if n.Tag != "!!bool" || n.Value != "true" {
		r.fail(n, path, "must be true, is %q; leave it out where the host is no egress", n.Value)
		return false
	}
	return true
}
