package node

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/tpm"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// Config says where a node keeps its state and how it is reached.
type Config struct {
	StateDir    string // identity.db and node.db; one process at a time
	ServicesDir string // services.d
	// Join is a join token, or the name of a file that holds one after "@". It is needed once, on a host that
	// has not joined; a host that has joined ignores it.
	Join  string
	Lanes netip.AddrPort // UDP, where other nodes dial this one
	// Lane is what this node's own lanes run over. Auto: what the called service wants, by default QUIC, and TCP where
	// UDP does not get through. With QUIC the node does not listen on TCP either.
	Lane       transport.Carrier
	Advertise  string   // ip:port or ip that others dial; empty: the address that this host has towards the bus
	Zone       string   // where this host is, as LoadBalancingPolicies mean it; empty: nothing is said
	Region     string   // of which the zone is a part
	Socket     string   // unix socket for `sennit service` and `sennit status` on this host; empty: none
	KeyFile    string   // of the key that the node's own keys are sealed under; empty: systemd's credential, or they are not
	KeyStore   KeyStore // where the node's own key is made; empty: KeysInFile
	TPM        string   // device file of this host's TPM 2.0; empty: tpm.DefaultDevice
	Workload   string   // unix socket of the SPIFFE Workload API, for every process of this host; empty: none
	AccessLog  string   // file for the access log; "-": standard output; empty: none
	LogShare   float64  // share of the exchanges without failure that are logged, 0 to 1
	TraceShare float64  // share of the traces that begin here that are sampled, 0 to 1; 0: none begin here
	NoEdges    bool     // count nothing of who calls whom
	Metrics    string   // TCP address at which Prometheus scrapes, without TLS; empty: none
	// SourceConnections bounds the open connections of one address outside to one port of a gateway; 0: 1,024.
	SourceConnections int
	DrainTime         time.Duration // how long running exchanges may take when the node stops
	Log               *slog.Logger  // nil: slog.Default

	Now func() time.Time // what certificates and tokens are judged by, and registrations dated by; nil: time.Now
}

// Flags declares the settings as command-line flags, with the defaults of a root or user installation.
func (c *Config) Flags(flags *flag.FlagSet) {
	state := "/var/lib/sennit/node"
	services := "/etc/sennit/services.d"
	if os.Getuid() != 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			home = "."
		}
		state, services = filepath.Join(home, ".local/state/sennit/node"), filepath.Join(home, ".config/sennit/services.d")
	}
	flags.StringVar(&c.StateDir, "state-dir", state, "folder of the node's keys and of the configuration that it has")
	flags.StringVar(&c.ServicesDir, "services-dir", services, "folder of the files that say what runs on this host")
	flags.StringVar(&c.Join, "join", "", "join token, or @FILE; needed once. SENNIT_JOIN_TOKEN does the same and stays out of the process list, and so does systemd's credential sennit-join-token")
	flags.TextVar(&c.Lanes, "lanes", netip.MustParseAddrPort("0.0.0.0:7443"), "UDP address where other nodes reach this one; the TCP port of the same number is for those that UDP does not reach")
	flags.TextVar(&c.Lane, "lane", transport.Auto, "what lanes run over: quic, tcp, or auto, which is QUIC, and TCP where UDP does not get through")
	flags.StringVar(&c.Advertise, "advertise", "", "address, or address:port, that other nodes dial (default: this host's address towards the bus)")
	flags.StringVar(&c.Zone, "zone", "", "zone that this host is in, as a datacentre's name: a LoadBalancingPolicy can have requests stay in it")
	flags.StringVar(&c.Region, "region", "", "region that the zone is a part of")
	flags.StringVar(&c.Socket, "socket", report.SocketPath("node"), "unix socket for sennit's commands on this host")
	flags.StringVar(&c.KeyFile, "key-file", "", "file of a key, 32 random bytes or more, that the node's own keys are sealed under; systemd's credential sennit-node-key does the same")
	flags.Var(&c.KeyStore, "key-store", "where the node's own key is made: file, tpm, or auto, which is the TPM where there is one that can be used. Keys of services are always in memory and in the file")
	flags.StringVar(&c.TPM, "tpm", tpm.DefaultDevice, "device file of this host's TPM 2.0, which is opened only where it is needed")
	flags.StringVar(&c.Workload, "workload-socket", "", "unix socket of the SPIFFE Workload API, which every process of this host may open, as /run/sennit/workload.sock; empty is none")
	flags.StringVar(&c.AccessLog, "access-log", "-", "file for the access log; - is standard output, empty is none")
	flags.Float64Var(&c.LogShare, "access-log-share", 0.01, "share of the requests without failure that are logged; failures always are")
	flags.Float64Var(&c.TraceShare, "trace-share", 0.01, "share of the requests without a traceparent that begin a sampled trace; 0 begins none. Traces that a caller began are carried on as it wants")
	flags.BoolVar(&c.NoEdges, "no-edges", false, "count nothing of who calls whom: sennit graph does not show what is called from here, and there are no metrics of requests")
	flags.StringVar(&c.Metrics, "metrics", "", "TCP address, as 127.0.0.1:9464, where Prometheus scrapes /metrics; whoever reaches it may read. Empty is none")
	flags.IntVar(&c.SourceConnections, "gateway-source-connections", 1024, "how many connections one address outside may have open to one port of a gateway")
	flags.DurationVar(&c.DrainTime, "drain-time", 15*time.Second, "how long running requests may take when the node stops")
}

// LoadConfig reads the command line of the daemon. env is as of os.Environ.
func LoadConfig(args, env []string) (Config, error) {
	var c Config
	flags := flag.NewFlagSet("node", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	c.Flags(flags)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stderr)
			flags.Usage()
			return c, err
		}
		return c, fmt.Errorf("%w (see `node --help`)", err)
	}
	if flags.NArg() > 0 { // the flags behind it were not read
		return c, fmt.Errorf("there is nothing called %q to say to a node: all settings are flags (see `node --help`)", flags.Arg(0))
	}
	return c, c.Complete(env)
}

// Complete takes what the environment gives and resolves the token's file.
func (c *Config) Complete(env []string) error {
	for _, variable := range env {
		if value, ok := strings.CutPrefix(variable, "SENNIT_JOIN_TOKEN="); ok && c.Join == "" {
			c.Join = value
		}
	}
	if c.Join == "" {
		token, err := joinCredential()
		if err != nil {
			return err
		}
		c.Join = token
	}
	if file, ok := strings.CutPrefix(c.Join, "@"); ok {
		token, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the join token: %w", err)
		}
		c.Join = strings.TrimSpace(string(token))
	}
	if c.Advertise != "" { // else peers would be told an address that nobody meant
		_, err := netip.ParseAddr(c.Advertise)
		if _, full := netip.ParseAddrPort(c.Advertise); err != nil && full != nil {
			return fmt.Errorf("--advertise is %q; give the IP address that other nodes dial, or address:port", c.Advertise)
		}
	}
	for flag, place := range map[string]string{"--zone": c.Zone, "--region": c.Region} {
		if !registry.IsPlace(place) {
			return fmt.Errorf("%s is %q; give at most 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends", flag, place)
		}
	}
	if c.DrainTime < 0 {
		return fmt.Errorf("--drain-time must be 0 or more, is %s", c.DrainTime)
	}
	if c.SourceConnections < 0 {
		return fmt.Errorf("--gateway-source-connections must be 1 or more, is %d", c.SourceConnections)
	}
	if c.LogShare < 0 || c.LogShare > 1 {
		return fmt.Errorf("--access-log-share is a share from 0 to 1, not %v", c.LogShare)
	}
	if c.TraceShare < 0 || c.TraceShare > 1 {
		return fmt.Errorf("--trace-share is a share from 0 to 1, not %v", c.TraceShare)
	}
	return nil
}
