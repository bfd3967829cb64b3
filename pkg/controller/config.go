package controller

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// Config says where a controller keeps its state and how it is reached.
type Config struct {
	StateDir    string // the streams and the authority's keys; one process at a time
	Cluster     string
	TrustDomain string
	Name        string         // of this controller, a DNS label
	Bus         netip.AddrPort // TCP, where nodes connect
	API         netip.AddrPort // TCP, where operators connect; port 0 of a zero address: none
	Advertise   string         // comma-separated hosts or addresses by which nodes and operators reach this one
	Socket      string         // unix socket for operators on this host, without a token; empty: none
	// Bundle is a TCP address where other trust domains fetch the bundle; empty: none. It shows the controller's own
	// certificate (https_spiffe), or that of BundleCertificate and BundleKey, files in PEM (https_web).
	Bundle            string
	BundleCertificate string
	BundleKey         string
	OTLP              string        // receiver of traces, http://host:port; empty: none
	Metrics           string        // TCP address at which Prometheus scrapes, without TLS; empty: none
	TTL               time.Duration // of certificates; 0: 24 h
	AttestAWS         string        // file with the certificates of AWS's regions; empty: machines of AWS are not believed
	AttestAzure       string        // file with the authorities of Azure's attested data, and those below them; empty: as above
	AttestGCP         string        // URL or file of Google's keys (JWKS); empty: as above
	KeyFile           string        // that the authority's keys are sealed under; empty: ca/ca.key in StateDir
	// PassphraseFile holds the passphrase that the key file is sealed under; ca.AskAtTerminal: it is asked for; empty: there
	// is none.
	PassphraseFile string
	UpstreamCA     string       // settings of the authority outside that certifies the intermediate; empty: the own root does
	OIDC           OIDCConfig   // whose ID tokens operators may show; without an issuer: nobody's
	Log            *slog.Logger // nil: slog.Default

	Now func() time.Time // what certificates and tokens are dated by; nil: time.Now

	passphrase ca.Passphrase // that PassphraseFile says, asked for once

	upstream upstreamca.Authority // in the place of UpstreamCA, for tests
}

// Flags declares the settings as command-line flags, with the defaults of a root or user installation.
func (c *Config) Flags(flags *flag.FlagSet) {
	state := "/var/lib/sennit/controller"
	if os.Getuid() != 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			home = "."
		}
		state = filepath.Join(home, ".local/state/sennit/controller")
	}
	flags.StringVar(&c.StateDir, "state-dir", state, "folder of the streams and of the authority's sealed keys")
	flags.StringVar(&c.Cluster, "cluster", "sennit", "name of the cluster; never changes")
	flags.StringVar(&c.TrustDomain, "trust-domain", "sennit.local", "SPIFFE trust domain; never changes")
	flags.StringVar(&c.Name, "name", hostLabel(), "name of this controller, unique in the cluster")
	flags.TextVar(&c.Bus, "bus", netip.MustParseAddrPort("0.0.0.0:4222"), "TCP address where nodes connect")
	flags.TextVar(&c.API, "api", netip.MustParseAddrPort("0.0.0.0:6443"), "TCP address where operators connect")
	flags.StringVar(&c.Advertise, "advertise", "", "hosts or addresses by which this controller is reached, comma-separated (default: this host's address)")
	flags.StringVar(&c.Socket, "socket", report.SocketPath("controller"), "unix socket for operators on this host")
	flags.StringVar(&c.Bundle, "bundle-endpoint", "", "TCP address, as 0.0.0.0:8443, where other trust domains fetch this one's bundle by SPIFFE's profile https_spiffe; whoever reaches it may read. Empty is none")
	flags.StringVar(&c.BundleCertificate, "bundle-certificate", "", "file of a certificate chain in PEM, with which the bundle endpoint speaks https_web in the place of https_spiffe; it is read again when it changes")
	flags.StringVar(&c.BundleKey, "bundle-key", "", "file of that certificate's private key in PEM")
	flags.StringVar(&c.OTLP, "otlp-endpoint", "", "where the nodes' traces go by OTLP over HTTP, as http://127.0.0.1:4318. Empty is nowhere, and nodes record none")
	flags.StringVar(&c.Metrics, "metrics", "", "TCP address, as 127.0.0.1:9465, where Prometheus scrapes /metrics; whoever reaches it may read. Empty is none")
	flags.StringVar(&c.AttestAWS, "attest-aws", "", "PEM file with the RSA-2048 certificates that AWS publishes for its regions: join tokens can be for machines there")
	flags.StringVar(&c.AttestAzure, "attest-azure", "", "PEM file with the authorities that Azure publishes for attested data, roots and intermediates: join tokens can be for machines there")
	flags.StringVar(&c.AttestGCP, "attest-gcp", "", "URL (https://www.googleapis.com/oauth2/v3/certs) or file of Google's keys: join tokens can be for machines there")
	flags.StringVar(&c.KeyFile, "ca-key-file", "", "file of the key that the authority's keys are sealed under (default: ca/ca.key in the state directory, or systemd's credential sennit-ca-key)")
	flags.StringVar(&c.PassphraseFile, "ca-passphrase-file", "", "file with the passphrase that this key file is sealed under; - asks at the terminal. Empty is none")
	flags.StringVar(&c.UpstreamCA, "upstream-ca", "", "file that names an authority outside of the mesh (step-ca, for example) which certifies the intermediate after the next `sennit ca rotate --intermediate`. Empty is the mesh's own root")
	flags.DurationVar(&c.TTL, "certificate-ttl", 24*time.Hour, "how long certificates live")
	c.OIDC.flags(flags)
}

// LoadConfig reads the command line of the daemon.
func LoadConfig(args []string) (Config, error) {
	var c Config
	flags := flag.NewFlagSet("controller", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	c.Flags(flags)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stderr)
			flags.Usage()
			return c, err
		}
		return c, fmt.Errorf("%w (see `controller --help`)", err)
	}
	if flags.NArg() > 0 { // the flags behind it were not read
		return c, fmt.Errorf("there is nothing called %q to say to a controller: all settings are flags (see `controller --help`)", flags.Arg(0))
	}
	return c, nil
}

// hosts are the names and addresses by which this controller is reached.
func (c *Config) hosts() []string {
	var hosts []string
	for host := range strings.SplitSeq(c.Advertise, ",") {
		if host = strings.TrimSpace(host); host != "" {
			hosts = append(hosts, host)
		}
	}
	if len(hosts) > 0 {
		return hosts
	}
	if address := c.Bus.Addr(); !address.IsUnspecified() {
		return []string{address.String()}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return []string{"127.0.0.1"}
	}
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() && !prefix.Addr().IsLoopback() {
			hosts = append(hosts, prefix.Addr().String())
		}
	}
	return append(hosts, "127.0.0.1")
}

func (c *Config) check() error {
	if !exchange.IsLabel(c.Name) {
		return fmt.Errorf("--name is %q; a controller is named like one label of a host name: a-z, 0-9 and -", c.Name)
	}
	if (c.BundleCertificate == "") != (c.BundleKey == "") || c.BundleCertificate != "" && c.Bundle == "" {
		return errors.New("--bundle-certificate and --bundle-key are given together, and with --bundle-endpoint")
	}
	if !exchange.IsLabel(c.Cluster) {
		return fmt.Errorf("--cluster is %q; a cluster is named like one label of a host name: a-z, 0-9 and -", c.Cluster)
	}
	for _, host := range c.hosts() { // they go into certificates and join tokens, where nobody looks at them
		_, err := netip.ParseAddr(host)
		if err != nil && slices.ContainsFunc(strings.Split(strings.ToLower(host), "."), func(l string) bool { return !exchange.IsLabel(l) }) {
			return fmt.Errorf("--advertise holds %q; give host names or IP addresses without a port, comma-separated", host)
		}
	}
	return nil
}

// hostLabel is the host's name as a label.
func hostLabel() string {
	name, err := os.Hostname()
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	if err != nil || !exchange.IsLabel(name) {
		return "controller"
	}
	return name
}
