package hosts

import "testing"

func TestBoot(t *testing.T) {
	all := Start(t, "host1", "host2")
	for _, h := range all {
		out, err := h.Shell(t.Context(), 0, "systemctl is-system-running; systemctl list-units --no-pager --no-legend | cut -c1-80; hostname; ip -br a; ls -la ~; grep . /proc/sys/fs/protected_*; cat /proc/self/mounts | wc -l; cat /proc/sys/net/core/rmem_max; id -un 1000").CombinedOutput()
		t.Logf("%v\n%s", err, out)
	}
}
