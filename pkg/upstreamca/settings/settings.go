// Package settings reads which authority outside of the mesh certifies a controller's intermediate.
package settings

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
	"github.com/sennit-mesh/sennit/pkg/upstreamca/acme"
	"github.com/sennit-mesh/sennit/pkg/upstreamca/stepca"
	"github.com/sennit-mesh/sennit/pkg/upstreamca/vault"
)

// Settings are a file in YAML with one of its fields.
type Settings struct {
	StepCA *stepca.Config `yaml:"stepCA"`
	ACME   *acme.Config   `yaml:"acme"`
	Vault  *vault.Config  `yaml:"vault"`
}

// Open reads a file, and makes the authority that it names. It asks nobody. Unknown fields are errors.
func Open(path string, now func() time.Time) (upstreamca.Authority, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the settings of the authority outside: %w", err)
	}
	var s Settings
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var made []upstreamca.Authority
	add := func(kind string, one upstreamca.Authority, why error) {
		if why != nil {
			err = errors.Join(err, fmt.Errorf("%s: %s: %w", path, kind, why))
		}
		made = append(made, one)
	}
	if s.StepCA != nil {
		one, why := stepca.New(*s.StepCA, now)
		add("stepCA", one, why)
	}
	if s.ACME != nil {
		one, why := acme.New(*s.ACME, now)
		add("acme", one, why)
	}
	if s.Vault != nil {
		one, why := vault.New(*s.Vault)
		add("vault", one, why)
	}
	if err == nil && len(made) != 1 {
		err = fmt.Errorf("%s: it names %d authorities: want one", path, len(made))
	}
	if err != nil {
		return nil, err
	}
	return made[0], nil
}
