package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// A plugin is a command that a kubeconfig names, and that answers with a token (client.authentication.k8s.io/v1). It is run
// as the person who reads the kubeconfig, as kubectl does: who may write that file may run commands as that person.
type plugin struct {
	APIVersion string
	Command    string
	Args       []string
	Env        []struct{ Name, Value string }

	mu   sync.Mutex
	have string
	ends time.Time // zero: it is good as long as this process lives
}

const (
	pluginTime  = time.Minute
	pluginEarly = 10 * time.Second // before its end a token is asked for anew
)

// token returns one that is good now.
func (p *plugin) token(ctx context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.have != "" && (p.ends.IsZero() || time.Until(p.ends) > pluginEarly) {
		return p.have, nil
	}
	if p.APIVersion != "client.authentication.k8s.io/v1" {
		return "", fmt.Errorf("the kubeconfig's credential plugin %s speaks %q, and client.authentication.k8s.io/v1 is understood", p.Command, p.APIVersion)
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Command, p.Args...)
	cmd.Env = append(os.Environ(), `KUBERNETES_EXEC_INFO={"apiVersion":"`+p.APIVersion+`","kind":"ExecCredential","spec":{"interactive":false}}`)
	for _, e := range p.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		if text == "" {
			text = err.Error()
		}
		return "", fmt.Errorf("the kubeconfig's credential plugin gives no token: %s", strings.TrimPrefix(text, "sennit: "))
	}
	var answer struct {
		Status struct {
			Token               string
			ExpirationTimestamp time.Time
		}
	}
	if json.Unmarshal(out.Bytes(), &answer) != nil || answer.Status.Token == "" { // an error would quote it
		return "", errors.New("the kubeconfig's credential plugin answers with no token")
	}
	p.have, p.ends = answer.Status.Token, answer.Status.ExpirationTimestamp
	return p.have, nil
}
