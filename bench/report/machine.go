package report

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Machine is what a run was made on.
type Machine struct {
	Cores    int               `json:"cores"`
	CPU      string            `json:"cpu,omitempty"`
	Kernel   string            `json:"kernel"`
	Go       string            `json:"go"`
	UDPGRO   bool              `json:"udp_gro"`  // several datagrams in one read
	UDPGSO   bool              `json:"udp_gso"`  // several datagrams in one write
	Versions map[string]string `json:"versions"` // of the systems
	Notes    []string          `json:"notes,omitempty"`
}

// ThisMachine looks at where this program runs; the caller fills in Versions.
func ThisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), CPU: cpuModel(), Go: runtime.Version(), Versions: map[string]string{}}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		m.Kernel = unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
	}
	m.UDPGRO, m.UDPGSO = udpOffload(unix.UDP_GRO, 1), udpOffload(unix.UDP_SEGMENT, 1200)
	m.note()
	return m
}

// note says what the machine changes in the figures.
func (m *Machine) note() {
	switch {
	case m.Cores == 1:
		m.Notes = append(m.Notes, "there is one core: load, origin and both proxies take turns on it, so that latencies are those of waiting for it, and rates say what all of them cost together. CPU per request is still the proxies' alone.")
	case m.Cores < 6: // one for the load, one for the origin, two for each proxy
		m.Notes = append(m.Notes, fmt.Sprintf("load, origin and both proxies share %d cores: rates say what all of them cost together. CPU per request is the proxies' alone.", m.Cores))
	}
	if !m.UDPGRO || !m.UDPGSO {
		m.Notes = append(m.Notes, "this kernel does not read or write several UDP datagrams at once (GRO, GSO): lanes cost one system call a datagram, which large bodies show most. Linux 5.0 has both.")
	}
}

// udpOffload reports whether a UDP socket takes an option of the kernel's offloads.
func udpOffload(option, value int) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, option, value) == nil
}

func cpuModel() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// String is the machine in one line.
func (m Machine) String() string {
	parts := []string{fmt.Sprintf("%d cores", m.Cores)}
	if m.Cores == 1 {
		parts[0] = "1 core"
	}
	if m.CPU != "" {
		parts[0] += " (" + m.CPU + ")"
	}
	parts = append(parts, m.Kernel, m.Go, fmt.Sprintf("UDP GRO %s, GSO %s", yes(m.UDPGRO), yes(m.UDPGSO)))
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		parts = append(parts, name+" "+m.Versions[name])
	}
	return strings.Join(parts, "; ")
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}
