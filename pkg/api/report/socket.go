package report

import (
	"os"
	"path/filepath"
)

// SocketPath is where a daemon ("controller", "node") of this user listens where nothing else is said: below
// /run for root; for others below their runtime directory, else below their home. Never in a folder in which
// another user could have put a socket first.
func SocketPath(daemon string) string {
	dir := "/run/sennit"
	if os.Getuid() != 0 {
		if runtime := os.Getenv("XDG_RUNTIME_DIR"); runtime != "" {
			dir = filepath.Join(runtime, "sennit")
		} else if home, err := os.UserHomeDir(); err == nil {
			dir = filepath.Join(home, ".local/state/sennit")
		} else {
			dir = "."
		}
	}
	return filepath.Join(dir, daemon+".sock")
}
