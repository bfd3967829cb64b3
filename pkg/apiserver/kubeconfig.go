package apiserver

import (
	"fmt"

	"sigs.k8s.io/yaml"
)

// Kubeconfig returns a configuration file with which kubectl and others reach the API: server is the URL
// ("https://host:port"), ca the certificates that it must chain to in PEM, cluster the name of all entries.
func Kubeconfig(cluster, server string, ca []byte, token string) ([]byte, error) {
	type m = map[string]any
	data, err := yaml.Marshal(m{
		"apiVersion": "v1", "kind": "Config", "current-context": cluster,
		"clusters": []m{{"name": cluster, "cluster": m{"server": server, "certificate-authority-data": ca}}},
		"users":    []m{{"name": cluster, "user": m{"token": token}}},
		"contexts": []m{{"name": cluster, "context": m{"cluster": cluster, "user": cluster, "namespace": "default"}}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode kubeconfig: %w", err)
	}
	return data, nil
}
