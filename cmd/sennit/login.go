package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sennit-mesh/sennit/cmd/sennit/signin"
)

// A login is what `sennit login` was asked for.
type login struct {
	issuer, clientID, secretFile, caFile string
	scopes                               []string
	listen                               string
	device, noBrowser, execCredential    bool
	forget                               bool
	timeout                              time.Duration
	server, serverCA, file               string
}

func loginCommand() *cobra.Command {
	l := &login{}
	cmd := &cobra.Command{
		Use:   "login --issuer URL --client-id ID",
		Short: "Sign in with an identity provider, for this command and kubectl",
		Long: `Login signs a person in with an OpenID Connect provider that the controller knows (its flags --oidc-issuer and --oidc-client-id), in a
browser, or with --device on another device. The ID token is kept for this user alone, and renewed where the provider lets that be. With
--file it writes a kubeconfig whose user is 'sennit login --exec-credential': kubectl, Helm and 'sennit --kubeconfig' ask it for the token.
What the person may do, roles say: his name and groups begin with what the controller's flags put before them, as oidc:.`,
		Example: `  sennit login --issuer https://login.example.com --client-id sennit --server https://controller:6443 --ca-file ca.pem --file ~/.kube/sennit
  sennit login --issuer https://login.example.com --client-id sennit --device
  sennit login --issuer https://login.example.com --client-id sennit --forget`,
		GroupID: groupHosts, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVar(&l.issuer, "issuer", "", "the provider, as https://login.example.com")
	f.StringVar(&l.clientID, "client-id", "", "client that this command is at the provider")
	f.StringVar(&l.secretFile, "client-secret-file", "", "file with the client's secret, where the provider wants one")
	f.StringVar(&l.caFile, "issuer-ca-file", "", "what the provider's certificate must chain to, PEM (default: the system's)")
	f.StringSliceVar(&l.scopes, "scope", []string{"profile", "email", "groups", "offline_access"}, "what to ask for beside openid")
	f.StringVar(&l.listen, "listen", "127.0.0.1:0", "loopback address to which the browser comes back")
	f.BoolVar(&l.device, "device", false, "sign in on another device, by typing a code there")
	f.BoolVar(&l.noBrowser, "no-browser", false, "print where to go, and open nothing")
	f.DurationVar(&l.timeout, "timeout", 5*time.Minute, "how long to wait for the person")
	f.BoolVar(&l.execCredential, "exec-credential", false, "answer kubectl with the token, as a credential plugin does")
	f.BoolVar(&l.forget, "forget", false, "remove what is kept of this sign-in")
	f.StringVar(&l.server, "server", "", "with --file: the controller's API, https://host:port")
	f.StringVar(&l.serverCA, "ca-file", "", "with --file: what the controller's certificate must chain to, PEM")
	f.StringVar(&l.file, "file", "", "write a kubeconfig that uses this sign-in to this file")
	for _, name := range []string{"client-secret-file", "issuer-ca-file", "ca-file", "file"} {
		_ = cmd.MarkFlagFilename(name)
	}
	out := &format{is: "text", allowed: []string{"text", "yaml", "json"}}
	out.flag(cmd, "output", "o", "form of the output")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return l.run(cmd, out) }
	return cmd
}

func (l *login) run(cmd *cobra.Command, out *format) error {
	switch {
	case l.issuer == "" || l.clientID == "":
		return misused(cmd, "say with --issuer and --client-id where to sign in, and as which client (the controller's --oidc-issuer and --oidc-client-id)")
	case l.file != "" && l.server == "":
		return misused(cmd, "--file writes a kubeconfig: say with --server where the controller is")
	case l.server != "" && l.file == "":
		return misused(cmd, "--server is for --file, which is not given")
	}
	store, err := signin.DefaultStore()
	if err != nil {
		return err
	}
	p, err := l.provider()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), l.timeout)
	defer cancel()
	if l.forget {
		return store.Forget(p)
	}
	if l.execCredential {
		t, err := store.Current(ctx, p)
		if err != nil {
			return err
		}
		return credential(cmd.OutOrStdout(), t)
	}
	var t signin.Tokens
	if l.device {
		t, err = p.Device(ctx, func(uri, code string) {
			fmt.Fprintf(cmd.ErrOrStderr(), "go to %s and type %s\n", uri, code)
		})
	} else {
		t, err = p.Browser(ctx, l.listen, func(url string) error {
			fmt.Fprintf(cmd.ErrOrStderr(), "sign in at %s\n", url)
			if !l.noBrowser {
				_ = openBrowser(cmd.Context(), url) // he can open it himself
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	if err := store.Save(p, t); err != nil {
		return err
	}
	if l.file != "" {
		config, err := l.kubeconfig()
		if err == nil {
			err = writeSecret(l.file, config)
		}
		if err != nil {
			return err
		}
	}
	result := map[string]any{"issuer": l.issuer, "expires": t.Expires.UTC().Format(time.RFC3339), "renewable": t.Refresh != ""}
	if out.structured() {
		return out.write(cmd.OutOrStdout(), result)
	}
	renewed := "and is renewed"
	if t.Refresh == "" {
		renewed = "and cannot be renewed"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "signed in with %s; the token ends at %s %s\n", l.issuer, result["expires"], renewed)
	return err
}

func (l *login) provider() (*signin.Provider, error) {
	p := &signin.Provider{Issuer: l.issuer, ClientID: l.clientID, Scopes: l.scopes}
	if l.secretFile != "" {
		data, err := os.ReadFile(l.secretFile)
		if err != nil {
			return nil, fmt.Errorf("read the client's secret: %w", err)
		}
		p.ClientSecret = strings.TrimSpace(string(data))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if l.caFile != "" {
		pem, err := os.ReadFile(l.caFile)
		if err != nil {
			return nil, fmt.Errorf("read the provider's certificates: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", l.caFile)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	p.HTTP = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	return p, nil
}

type object = map[string]any

// credential answers kubectl (client.authentication.k8s.io/v1, ExecCredential).
func credential(w io.Writer, t signin.Tokens) error {
	return json.NewEncoder(w).Encode(object{
		"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
		"status": object{"token": t.IDToken, "expirationTimestamp": t.Expires.UTC().Format(time.RFC3339)},
	})
}

// kubeconfig names this program, with which clients ask for the token: the file holds no secret.
func (l *login) kubeconfig() ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"login", "--exec-credential", "--issuer", l.issuer, "--client-id", l.clientID}
	for flag, file := range map[string]string{"--client-secret-file": l.secretFile, "--issuer-ca-file": l.caFile} {
		if file == "" {
			continue
		}
		absolute, err := filepath.Abs(file) // clients run it elsewhere
		if err != nil {
			return nil, err
		}
		args = append(args, flag, absolute)
	}
	cluster := object{"server": l.server}
	if l.serverCA != "" {
		pem, err := os.ReadFile(l.serverCA)
		if err != nil {
			return nil, fmt.Errorf("read the CA's certificates: %w", err)
		}
		cluster["certificate-authority-data"] = pem
	}
	return yaml.Marshal(object{
		"apiVersion": "v1", "kind": "Config", "current-context": "sennit",
		"clusters": []object{{"name": "sennit", "cluster": cluster}},
		"users": []object{{"name": "sennit", "user": object{"exec": object{
			"apiVersion": "client.authentication.k8s.io/v1", "command": self, "args": args, "interactiveMode": "Never",
			"installHint": "sign in first: sennit login --issuer " + l.issuer + " --client-id " + l.clientID,
		}}}},
		"contexts": []object{{"name": "sennit", "context": object{"cluster": "sennit", "user": "sennit", "namespace": "default"}}},
	})
}

// openBrowser opens the person's browser, where there is one.
func openBrowser(ctx context.Context, url string) error {
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return errors.New("there is no display")
	}
	return exec.CommandContext(ctx, "xdg-open", url).Start()
}
