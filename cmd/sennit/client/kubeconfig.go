package client

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// A kubeconfig, as far as this client follows it.
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Contexts       []struct {
		Name    string
		Context struct{ Cluster, User string }
	}
	Clusters []struct {
		Name    string
		Cluster struct {
			Server     string
			CAFile     string `json:"certificate-authority"`
			CAData     []byte `json:"certificate-authority-data"`
			ServerName string `json:"tls-server-name"`
		}
	}
	Users []struct {
		Name string
		User struct {
			Token, TokenFile string
			Exec             *plugin
		}
	}
}

// fromKubeconfig returns a client of the current context of a file.
func fromKubeconfig(file string) (*Client, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	var k kubeconfig
	if yaml.Unmarshal(data, &k) != nil { // the error would quote the file, which holds a secret
		return nil, fmt.Errorf("%s is no kubeconfig (make one with `sennit kubeconfig`)", file)
	}
	for _, c := range k.Contexts {
		if c.Name != k.CurrentContext {
			continue
		}
		return k.open(file, c.Context.Cluster, c.Context.User)
	}
	return nil, fmt.Errorf("%s: its current-context %q is none of its contexts (make a new one with `sennit kubeconfig`)", file, k.CurrentContext)
}

func (k *kubeconfig) open(file, cluster, user string) (*Client, error) {
	near := func(path string) string { // paths are relative to the file
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(filepath.Dir(file), path)
	}
	token := ""
	var ask *plugin
	for _, u := range k.Users {
		if u.Name != user {
			continue
		}
		if ask = u.User.Exec; ask != nil && strings.Contains(ask.Command, "/") {
			var err error
			if ask.Command, err = filepath.Abs(near(ask.Command)); err != nil { // else it were looked for in PATH
				return nil, err
			}
		}
		token = u.User.Token
		if u.User.TokenFile != "" {
			var err error
			if token, err = readToken(near(u.User.TokenFile)); err != nil {
				return nil, err
			}
		}
	}
	if token == "" && ask == nil {
		return nil, fmt.Errorf("%s: user %q has no token, which is how operators show who they are (make a new one with `sennit kubeconfig`)", file, user)
	}
	for _, c := range k.Clusters {
		if c.Name != cluster {
			continue
		}
		pem := c.Cluster.CAData
		if len(pem) == 0 && c.Cluster.CAFile != "" {
			var err error
			if pem, err = os.ReadFile(near(c.Cluster.CAFile)); err != nil {
				return nil, fmt.Errorf("read the CA's certificates: %w", err)
			}
		}
		var roots *x509.CertPool
		if len(pem) > 0 {
			var err error
			if roots, err = pool(file, pem); err != nil {
				return nil, err
			}
		}
		cl, err := newTLS(c.Cluster.Server, token, roots, c.Cluster.ServerName)
		if err == nil && token == "" {
			cl.conn.plugin = ask
		}
		return cl, err
	}
	return nil, fmt.Errorf("%s: there is no cluster %q in it (make a new one with `sennit kubeconfig`)", file, cluster)
}
