// Package release says which version of Sennit this program is. Commands, controllers and nodes all say the same.
package release

import "runtime/debug"

// version is set when releases are built: -ldflags "-X github.com/sennit-mesh/sennit/internal/release.version=v1.2.3".
var version string

// Version is a release's version, else that of the module where the program was installed as one, else the commit that
// it was built from, else "devel".
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "devel"
}
