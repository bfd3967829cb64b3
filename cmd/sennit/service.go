package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/registry"
)

func serviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Say which services this host runs",
		Long: `Service tells this host's node which services run here, as files in services.d do, and lists what it knows. What is
registered so survives a restart of the node. The node must be allowed to run the service.`,
		Example: `  sennit service register default/orders --port 80:http=127.0.0.1:8080
  sennit service list`,
		GroupID: groupHosts,
	}
	cmd.AddCommand(serviceRegisterCommand(), serviceDeregisterCommand(), serviceListCommand())
	return cmd
}

func serviceRegisterCommand() *cobra.Command {
	var (
		file, socket, instance, health string
		ports, labels                  []string
		weight                         uint32
		out                            *format
	)
	cmd := &cobra.Command{
		Use:   "register (SERVICE --port PORT[:PROTOCOL]=ADDRESS | -f FILE)",
		Short: "Register an instance of a service on this host",
		Example: `  sennit service register default/orders --port 80:http=127.0.0.1:8080 --label version=v1 --health /healthz
  sennit service register default/stock --port 5432=127.0.0.1:5432 --instance stock-2
  sennit service register -f orders.yaml   # one document as in services.d`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			var data []byte
			var err error
			switch {
			case (file == "") == (len(args) == 0):
				return misused(cmd, "give a SERVICE with its --port, or -f FILE")
			case file != "" && (len(ports)+len(labels) > 0 || weight != 0 || instance != "" || health != ""):
				return misused(cmd, "with -f, all is said in the file: leave the other flags out")
			case file != "":
				data, err = readFile(cmd.InOrStdin(), file)
			default:
				data, err = describeService(cmd, args[0], instance, health, weight, ports, labels)
			}
			if err != nil {
				return err
			}
			switch file {
			case "":
				file = "<flags>"
			case "-":
				file = "<stdin>"
			}
			// The node checks again; here mistakes get the file's own name.
			found, err := registry.Parse(file, data, "this-host")
			if err != nil {
				return refused(err)
			}
			if len(found) != 1 {
				return refused(fmt.Errorf("%s: holds %d documents; register one instance at a time", file, len(found)))
			}
			made, err := openNode(socket).Register(cmd.Context(), data)
			if err != nil {
				return err
			}
			if out.structured() {
				return out.write(cmd.OutOrStdout(), made)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "service %s registered as instance %s\n", made.Service, made.Instance)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "filename", "f", "", "file with one document as in services.d, or - for standard input")
	f.StringArrayVar(&ports, "port", nil, "PORT[:PROTOCOL]=ADDRESS: the port that callers name, http, http2, grpc or tcp, and where the process listens (may be repeated)")
	f.StringArrayVar(&labels, "label", nil, "NAME=VALUE, as version=v1 (may be repeated)")
	f.Uint32Var(&weight, "weight", 0, "how much of the service's requests the instance gets beside the others, 1 to 1000 (default 100)")
	f.StringVar(&instance, "instance", "", "name of the instance (default the node's name)")
	f.StringVar(&health, "health", "", "path to GET on the first port for its health; without it, the instance counts as healthy")
	nodeSocketFlag(cmd, &socket)
	out = outputFlag(cmd)
	return cmd
}

// describeService writes the document of services.d that the flags stand for.
func describeService(cmd *cobra.Command, service, instance, health string, weight uint32, ports, labels []string) ([]byte, error) {
	doc := map[string]any{"service": service}
	if instance != "" {
		doc["instance"] = instance
	}
	var list []any
	first := ""
	for _, p := range ports {
		name, address, ok := strings.Cut(p, "=")
		if !ok {
			return nil, misused(cmd, "--port must be PORT[:PROTOCOL]=ADDRESS, as 80:http=127.0.0.1:8080, is %q", p)
		}
		number, protocol, _ := strings.Cut(name, ":")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return nil, misused(cmd, "--port %s: the port must be a number from 1 to 65535, is %q", p, number)
		}
		port := map[string]any{"port": n, "address": address}
		if protocol != "" {
			port["protocol"] = protocol
		}
		first = firstOf(first, number)
		list = append(list, port)
	}
	if len(list) == 0 {
		return nil, misused(cmd, "say with --port what callers reach, as --port 80:http=127.0.0.1:8080")
	}
	doc["ports"] = list
	if health != "" {
		doc["health"] = map[string]any{"http": map[string]any{"port": first, "path": health}}
	}
	if weight != 0 {
		doc["weight"] = weight
	}
	named := map[string]any{}
	for _, l := range labels {
		name, value, ok := strings.Cut(l, "=")
		if !ok {
			return nil, misused(cmd, "--label must be NAME=VALUE, is %q", l)
		}
		named[name] = value
	}
	if len(named) > 0 {
		doc["labels"] = named
	}
	data, err := yaml.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("describe the service: %w", err)
	}
	return data, nil
}

func serviceDeregisterCommand() *cobra.Command {
	var (
		socket string
		out    *format
	)
	cmd := &cobra.Command{
		Use:   "deregister SERVICE [INSTANCE]",
		Short: "Withdraw what was registered on this host",
		Long: `Deregister withdraws an instance that ` + "`sennit service register`" + ` declared. The instance may be left out where this host
runs one of the service.`,
		Example: `  sennit service deregister default/orders
  sennit service deregister default/orders orders-2`,
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: completeServices(&socket),
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, name := splitService(args[0])
			n := openNode(socket)
			instance := ""
			if len(args) == 2 {
				instance = args[1]
			} else {
				all, err := n.Services(cmd.Context())
				if err != nil {
					return err
				}
				var found []string
				for _, s := range all {
					if s.Service == namespace+"/"+name {
						found = append(found, s.Instance)
					}
				}
				switch len(found) {
				case 0:
					return fmt.Errorf("this host runs no instance of %s/%s (`sennit service list` shows what it runs)", namespace, name)
				case 1:
					instance = found[0]
				default:
					return misused(cmd, "this host runs several instances of %s/%s, say which: %s", namespace, name, strings.Join(found, ", "))
				}
			}
			if err := n.Deregister(cmd.Context(), namespace, name, instance); err != nil {
				return err
			}
			if out.structured() {
				return out.write(cmd.OutOrStdout(), report.Declared{Service: namespace + "/" + name, Instance: instance})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "service %s/%s, instance %s, deregistered\n", namespace, name, instance)
			return err
		},
	}
	nodeSocketFlag(cmd, &socket)
	out = outputFlag(cmd)
	return cmd
}

func serviceListCommand() *cobra.Command {
	var (
		socket string
		out    *format
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what this host runs",
		Example: `  sennit service list
  sennit service list -o json`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := openNode(socket).Services(cmd.Context())
			if err != nil {
				return err
			}
			if out.structured() {
				return out.write(cmd.OutOrStdout(), append([]report.Registered{}, all...))
			}
			if len(all) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "this host runs no service (register one with `sennit service register`, or by a file in services.d)")
				return nil
			}
			return showServices(cmd.OutOrStdout(), all)
		},
	}
	nodeSocketFlag(cmd, &socket)
	out = outputFlag(cmd)
	return cmd
}

func showServices(w io.Writer, all []report.Registered) error {
	rows := [][]string{{"SERVICE", "INSTANCE", "HEALTH", "PORTS", "LABELS", "DECLARED IN", "DETAIL"}}
	for _, s := range all {
		var ports, labels []string
		for _, p := range s.Ports {
			ports = append(ports, fmt.Sprintf("%d:%s=%s", p.Port, p.Protocol, p.Address))
		}
		for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
			labels = append(labels, name+"="+s.Labels[name])
		}
		rows = append(rows, []string{
			s.Service, s.Instance, healthy(s.Healthy), orDash(strings.Join(ports, ",")), orDash(strings.Join(labels, ",")), orDash(s.Origin), s.Detail,
		})
	}
	return (&table{out: w}).print(rows)
}

// splitService reads a service's name, which is of the default namespace where it names none.
func splitService(service string) (namespace, name string) {
	if ns, name, ok := strings.Cut(service, "/"); ok {
		return ns, name
	}
	return defaultNamespace, service
}
