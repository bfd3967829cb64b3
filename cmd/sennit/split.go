package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

// splitFrom is the annotation of a route that `sennit split` changed: the revision before, or splitFromNothing.
const (
	splitFrom        = "sennit.dev/split-from"
	splitFromNothing = "nothing"
)

// A splitting is one run of `sennit split`.
type splitting struct {
	connection
	changing
	namespace, service, route string
	headers                   []string
	port                      int32
	undo, force               bool
	out                       *format
}

func splitCommand() *cobra.Command {
	s := &splitting{}
	cmd := &cobra.Command{
		Use:   "split SERVICE (VERSION[=WEIGHT]... | --undo)",
		Short: "Share a service's requests out to its versions",
		Long: `Split edits the HTTPRoute or GRPCRoute of a service, or makes an HTTPRoute: the rule that matches everything gives each version its weight and
all other versions nothing. With --header, it is a rule for requests with that header. It shows what will change and
who gets which share then, and asks on a terminal. --undo makes the route what it was before the last split.

A version is a Service whose selector names the service and the version, as {sennit.dev/service: orders, version: v1}.
What a split cannot say is left as it is, or refused: edit the document then.`,
		Example: `  sennit split orders v1=90 v2=10
  sennit split orders --header x-user=beta v2
  sennit split orders v2 --yes --wait
  sennit split orders --undo`,
		GroupID: groupDocuments,
		RunE:    func(cmd *cobra.Command, args []string) error { return s.run(cmd, args) },
	}
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	namespaceFlag(cmd, &s.namespace, "namespace of the service")
	f := cmd.Flags()
	f.StringArrayVar(&s.headers, "header", nil, "NAME=VALUE: only requests with this header (may be repeated: with all of them)")
	f.StringVar(&s.route, "route", "", "name of the route, where several are the service's; KIND/NAME where one of each kind has it")
	f.Int32Var(&s.port, "port", 0, "port of the service, where it has several")
	f.BoolVar(&s.undo, "undo", false, "make the route what it was before the last split")
	f.BoolVar(&s.force, "force-conflicts", false, "take over the rules where others manage them")
	s.changing.flags(cmd)
	s.out = outputFlag(cmd)
	s.connection.flags(cmd)
	return cmd
}

// A splitResult is what programs read.
type splitResult struct {
	Document string       `json:"document"`
	Result   string       `json:"result"`
	Shares   []ruleShares `json:"shares"`
}

func (s *splitting) run(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return misused(cmd, "say which service, as `sennit split orders v1=90 v2=10`")
	case s.undo && (len(args) > 1 || len(s.headers) > 0):
		return misused(cmd, "--undo takes no versions and no --header: the whole route goes back")
	case !s.undo && len(args) == 1:
		return misused(cmd, "say which versions get what, as v1=90 v2=10, or --undo")
	}
	if err := s.checkTimeout(cmd); err != nil {
		return err
	}
	s.service = args[0]
	if namespace, name, ok := strings.Cut(args[0], "/"); ok {
		s.namespace, s.service = namespace, name
	}
	weights, err := parseWeights(args[1:])
	if err != nil {
		return misused(cmd, "%w", err)
	}
	match, err := parseHeaders(s.headers)
	if err != nil {
		return misused(cmd, "%w", err)
	}
	c, err := s.open(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	known, err := s.read(ctx, c)
	if err != nil {
		return err
	}
	if s.undo {
		return s.goBack(cmd, c, known)
	}
	wanted, err := known.split(weights, match, s.port)
	if err != nil {
		return refused(err)
	}
	edited, err := known.document(wanted)
	if err != nil {
		return err
	}
	put := func(dryRun bool) (*unstructured.Unstructured, error) {
		now, _, err := c.Apply(ctx, known.kind, edited, client.ApplyOptions{DryRun: dryRun, Force: s.force})
		return now, s.explained(err)
	}
	would, err := put(true)
	if err != nil {
		return refused(err)
	}
	result := "created"
	if known.live != nil {
		result = "changed"
	}
	return s.change(cmd, c, known, would, result, put)
}

// goBack makes the route what it was before the last split.
func (s *splitting) goBack(cmd *cobra.Command, c *client.Client, known *splitState) error {
	ctx := cmd.Context()
	if known.live == nil {
		return fmt.Errorf("service %s/%s has no route, and nothing that could be undone (`sennit audit log --kind change` shows what was done)", s.namespace, s.service)
	}
	name, target, version := known.live.GetName(), client.Of(known.kind, known.live), known.live.GetResourceVersion()
	switch before := known.live.GetAnnotations()[splitFrom]; before {
	case "":
		return fmt.Errorf("%s is not as a split left it: nothing to undo (`sennit audit log --kind change` shows its revisions, `sennit rollback --to REVISION %s %s` goes back to one)", known.name(), known.kind.Singular, name)
	case splitFromNothing:
		return s.change(cmd, c, known, nil, deleted, func(dryRun bool) (*unstructured.Unstructured, error) {
			return nil, c.Delete(ctx, target, dryRun)
		})
	default:
		to, err := strconv.ParseUint(before, 10, 64)
		if err != nil {
			return fmt.Errorf("the annotation %s of %s is no revision: %w (use `sennit rollback --to REVISION %s %s`)", splitFrom, known.name(), err, known.kind.Singular, name)
		}
		put := func(dryRun bool) (*unstructured.Unstructured, error) {
			now, err := c.Rollback(ctx, target, to, version, dryRun)
			return now, s.explained(err)
		}
		would, err := put(true)
		if err != nil {
			return refused(err)
		}
		return s.change(cmd, c, known, would, "changed back", put)
	}
}

// change shows what the route would be (nil: gone), asks, and does it.
func (s *splitting) change(cmd *cobra.Command, c *client.Client, known *splitState, would *unstructured.Unstructured, result string, put func(dryRun bool) (*unstructured.Unstructured, error)) error {
	name := s.namespace + "/" + reference(known.kind, known.routeName)
	before, after := map[string]found{}, map[string]found{}
	if known.live != nil {
		before[name] = found{document: known.live}
	}
	out := splitResult{Document: name, Result: result, Shares: []ruleShares{}}
	if would != nil {
		after[name] = found{document: would}
		_, route, _, err := readRoute(would)
		if err != nil {
			return err
		}
		out.Shares = known.shares(route)
	}
	changes, err := between("now", before, "split", after)
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	if !s.out.structured() {
		if err := printRevised(w, changes); err != nil {
			return err
		}
		if err := showShares(w, out.Shares); err != nil {
			return err
		}
	}
	switch {
	case s.dryRun:
		out.Result += " (dry run)"
		return s.say(cmd, out)
	case len(changes) == 0:
		out.Result = "unchanged"
		return s.say(cmd, out)
	}
	if err := s.confirm(cmd, "change the route as shown?"); err != nil {
		return err
	}
	if _, err = put(false); err != nil {
		return err
	}
	if err := s.say(cmd, out); err != nil {
		return err
	}
	return s.await(cmd, c)
}

func (s *splitting) say(cmd *cobra.Command, r splitResult) error {
	if s.out.structured() {
		return s.out.write(cmd.OutOrStdout(), r)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", r.Document, r.Result)
	return err
}

// explained adds what to do to an error of the server's.
func (s *splitting) explained(err error) error {
	switch {
	case err == nil:
		return nil
	case len(causes(err)) == 0 && apierrors.IsConflict(err):
		return fmt.Errorf("the route was changed meanwhile: %w (run it again, and look at what it shows)", err)
	}
	return remedied(err)
}

// read asks for what a split needs to know.
func (s *splitting) read(ctx context.Context, c *client.Client) (*splitState, error) {
	known := &splitState{namespace: s.namespace, service: s.service}
	documents, _, err := c.List(ctx, client.Target{Kind: api.Service, Namespace: s.namespace})
	if err != nil {
		return nil, err
	}
	for _, u := range documents {
		one := &corev1.Service{}
		if err := api.As(u, one); err != nil {
			return nil, err
		}
		known.services = append(known.services, one)
	}
	calls, _, err := c.List(ctx, client.Target{Kind: api.GRPCRoute, Namespace: s.namespace})
	if err != nil {
		return nil, err
	}
	routes, revision, err := c.List(ctx, client.Target{Kind: api.HTTPRoute, Namespace: s.namespace})
	if err != nil {
		return nil, err
	}
	routes, known.revision = append(routes, calls...), revision
	return known, known.choose(routes, s.route)
}
