package capture

import (
	"slices"
	"strings"
)

// A Workload says which processes of this host are a service: those of one user, or those in one unit of the system's
// systemd. One that says neither is nobody.
type Workload struct {
	HasUID bool
	UID    uint32
	// Unit is a unit ("orders.service"), a template ("orders@.service": any instance of it), or a slice
	// ("shop.slice": all units in it).
	Unit string
}

// unitsOf returns the unit of the system's systemd that a cgroup belongs to, "" where it is in none, and the slices that
// it is in, outermost first. Slices are the system's own only before the first component that is none: below its unit
// whoever runs there may make cgroups of any name, as users do below user@1000.service, and containers below theirs.
func unitsOf(path string) (in []string, unit string) {
	for component := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		name := unitName(component)
		if !strings.HasSuffix(name, ".slice") {
			return in, name
		}
		in = append(in, name)
	}
	return in, ""
}

// unitName takes off the underscore that systemd puts before names which the kernel could take for an attribute of the
// cgroup ("memory.service" is the directory "_memory.service"), and before those that begin with one.
func unitName(component string) string { return strings.TrimPrefix(component, "_") }

// inUnit reports whether a cgroup belongs to a unit, to an instance of a template, or to a slice, as Workload.Unit names
// them.
func inUnit(path, wanted string) bool {
	in, unit := unitsOf(path)
	if strings.HasSuffix(wanted, ".slice") {
		return slices.Contains(in, wanted)
	}
	if before, after, template := strings.Cut(wanted, "@."); template {
		instance, found := strings.CutPrefix(unit, before+"@")
		instance, whole := strings.CutSuffix(instance, "."+after)
		return found && whole && instance != ""
	}
	return unit == wanted && unit != ""
}

// specific says how closely a workload describes its processes: of two that a process is, it is the one that is described
// more closely.
func (w Workload) specific() int {
	switch {
	case strings.HasSuffix(w.Unit, ".slice"):
		return 2
	case strings.Contains(w.Unit, "@."):
		return 3
	case w.Unit != "":
		return 4
	case w.HasUID:
		return 1
	}
	return 0
}
