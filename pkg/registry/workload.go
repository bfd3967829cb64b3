package registry

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// A Workload says which processes of this host are the service: those get its SVIDs from the node's Workload API. It is
// that of HasUID and UID, or that of Unit.
type Workload struct {
	HasUID bool
	UID    uint32
	Unit   string // a unit, a template or a slice of the system's systemd, as "orders.service"; empty: none
}

type documentWorkload struct {
	UID  *uint32 `json:"uid,omitempty"`
	Unit string  `json:"unit,omitempty"`
}

// String names the processes for people.
func (w Workload) String() string {
	if w.Unit != "" {
		return "unit " + w.Unit
	}
	return fmt.Sprintf("uid %d", w.UID)
}

func (r *reader) workload(n *yaml.Node, path string) *Workload {
	w := &Workload{}
	r.object(n, path, map[string]func(*yaml.Node, string){
		"uid":  func(n *yaml.Node, path string) { w.HasUID, w.UID = true, r.uid(n, path) },
		"unit": func(n *yaml.Node, path string) { w.Unit = r.unit(n, path) },
	})
	if n.Kind == yaml.MappingNode && has(n, "uid") == has(n, "unit") {
		r.fail(n, path, "needs one of uid and unit")
	}
	return w
}

func (r *reader) uid(n *yaml.Node, path string) uint32 {
	return uint32(r.integer(n, path, 0, 1<<32-2)) // the last one means none
}

func (r *reader) unit(n *yaml.Node, path string) string {
	unit := r.string(n, path)
	if !isUnit(unit) {
		r.fail(n, path, "must be a unit or slice of the system's systemd with its ending, as orders.service, is %q", n.Value)
	}
	return unit
}

// checkWorkloadsApart refuses processes that would be two services: a process speaks as one.
func checkWorkloadsApart(file string, instances []*Instance) error {
	for i, in := range instances {
		for _, other := range instances[:i] {
			if in.sharesWorkload(other) {
				return &FieldError{file, lineOf(in.Origin), "workload", fmt.Sprintf("%s is %s already (line %d); a process is one service", in.Workload, other.Service, lineOf(other.Origin))}
			}
		}
	}
	return nil
}

// sharesWorkload reports whether two instances of different services name the same processes.
func (in *Instance) sharesWorkload(other *Instance) bool {
	return in.Workload != nil && other.Workload != nil && *in.Workload == *other.Workload && in.Service != other.Service
}
