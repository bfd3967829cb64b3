package capture

import "testing"

func TestInUnit(t *testing.T) {
	const user = "/user.slice/user-1000.slice/user@1000.service"
	for _, tt := range []struct {
		name string
		path string
		unit string
		want bool
	}{
		{"a service", "/system.slice/orders.service", "orders.service", true},
		{"a cgroup that the service made", "/system.slice/orders.service/worker", "orders.service", true},
		{"in slices", "/shop.slice/shop-a.slice/orders.service", "orders.service", true},
		{"another", "/system.slice/payments.service", "orders.service", false},
		{"one whose name begins like it", "/system.slice/orders.service2", "orders.service", false},
		{"one whose name ends like it", "/system.slice/my-orders.service", "orders.service", false},
		{"one that was removed", "/system.slice/orders.service (deleted)", "orders.service", false},
		{"a unit of a user of that name", user + "/app.slice/orders.service", "orders.service", false},
		{"a slice of a user, and a unit in it", user + "/system.slice/orders.service", "orders.service", false},
		{"a user's manager, where it is named", user + "/app.slice/orders.service", "user@1000.service", true},
		{"a user's session", "/user.slice/user-1000.slice/session-1.scope", "session-1.scope", true},
		{"a cgroup that another service made", "/system.slice/evil.service/orders.service", "orders.service", false},
		{"and in a slice that it made", "/system.slice/evil.service/system.slice/orders.service", "orders.service", false},
		{"a container of that name in a scope", "/system.slice/docker-0123.scope/system.slice/orders.service", "orders.service", false},
		{"a container of a runtime without systemd", "/docker/orders.service", "orders.service", false},
		{"a machine that runs a systemd of its own", "/machine.slice/machine-a.scope/payload/system.slice/orders.service", "orders.service", false},
		{"a container of LXC", "/lxc.payload.a/system.slice/orders.service", "orders.service", false},
		{"a pod", "/kubepods.slice/kubepods-pod1.slice/cri-containerd-0123.scope", "cri-containerd-0123.scope", true},
		{"the root", "/", "orders.service", false},
		{"nothing", "", "", false},

		{"an instance of a template", "/system.slice/system-orders.slice/orders@1.service", "orders@.service", true},
		{"the instance that is named", "/system.slice/system-orders.slice/orders@1.service", "orders@1.service", true},
		{"another instance", "/system.slice/system-orders.slice/orders@2.service", "orders@1.service", false},
		{"an instance of another template", "/system.slice/system-orders.slice/my-orders@1.service", "orders@.service", false},
		{"no instance", "/system.slice/orders.service", "orders@.service", false},
		{"an instance without a name", "/system.slice/orders@.service", "orders@.service", false},
		{"an instance of another kind", "/system.slice/orders@1.scope", "orders@.service", false},
		{"an instance that a user runs", user + "/app.slice/app-orders.slice/orders@1.service", "orders@.service", false},

		{"a slice", "/shop.slice/orders.service", "shop.slice", true},
		{"a slice in another", "/shop.slice/shop-a.slice/orders.service", "shop-a.slice", true},
		{"a slice that a user made", user + "/shop.slice/orders.service", "shop.slice", false},
		{"a slice that a service made", "/system.slice/evil.service/shop.slice/a.service", "shop.slice", false},
		{"a unit that is named like a slice is", "/system.slice/shop.service", "shop.slice", false},

		{"what systemd escapes", "/system.slice/_memory.service", "memory.service", true},
		{"a name with an underscore, which it escapes too", "/system.slice/__orders.service", "_orders.service", true},
		{"and is not the one without", "/system.slice/__orders.service", "orders.service", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := inUnit(tt.path, tt.unit); got != tt.want {
				t.Errorf("inUnit(%q, %q) = %t", tt.path, tt.unit, got)
			}
		})
	}
}

// FuzzInUnit holds that nobody gets into a unit by cgroups that he makes below his own.
func FuzzInUnit(f *testing.F) {
	f.Add("/system.slice/orders.service", "orders.service")
	f.Add("/system.slice/", "/../orders.service")
	f.Add("a.slice/x", "orders@.service")
	f.Fuzz(func(t *testing.T, below, unit string) {
		if below = "/" + below; unit == "evil.service" || unit == "evil@.service" {
			return
		}
		for _, own := range []string{"/system.slice/evil.service", "/user.slice/user-1000.slice/user@1000.service"} {
			if inUnit(own, unit) != inUnit(own+below, unit) {
				t.Errorf("%q is %t in %q, and %q is not", own, inUnit(own, unit), unit, own+below)
			}
		}
	})
}
