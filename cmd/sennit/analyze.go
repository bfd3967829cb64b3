package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/analyze"
)

func analyzeCommand() *cobra.Command {
	var (
		conn      connection
		files     []string
		namespace string
		out       *format
	)
	cmd := &cobra.Command{
		Use:   "analyze [-f FILE|DIRECTORY|-]...",
		Short: "Find what is wrong with documents, before they are applied",
		Long: `Analyze looks for references to nothing, routes and rules that are not in effect, conflicts, rules that no request
reaches, weights that add up to zero, hostnames and services that nobody serves, and policies that attach to nothing. With
-f it lays the documents of files over those that the controller has, each as a whole, and shows what is wrong with them,
and what would be wrong because of them. Nothing is changed. The exit code is 1 where there is an error; warnings do not
count.`,
		Example: `  sennit analyze
  sennit analyze -f routes/
  sennit analyze -f orders.yaml -o json`,
		GroupID: groupDocuments, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var docs []document
			var data []byte
			if len(files) > 0 {
				var err error
				if docs, err = readDocuments(cmd.InOrStdin(), files, namespace); err == nil {
					err = applicable(docs)
				}
				if err != nil {
					return refused(err)
				}
				list := map[string]any{"apiVersion": "v1", "kind": "List"}
				var items []any
				for _, d := range docs {
					items = append(items, d.Written.Object)
				}
				list["items"] = items
				if data, err = json.Marshal(list); err != nil {
					return fmt.Errorf("encode the documents: %w", err)
				}
			}
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			found, err := c.Analyze(cmd.Context(), data)
			if err != nil {
				return err
			}
			all := found.Findings
			if len(docs) > 0 {
				all = concerning(docs, all, found.Before)
			}
			if out.structured() {
				err = out.write(cmd.OutOrStdout(), append([]analyze.Finding{}, all...))
			} else {
				err = showFindings(cmd.OutOrStdout(), docs, all)
			}
			if err == nil && slices.ContainsFunc(all, func(f analyze.Finding) bool { return f.Level == analyze.Error }) {
				err = errFound
			}
			return err
		},
	}
	filesFlag(cmd, &files, "file, directory, or - for standard input (may be repeated)")
	namespaceFlag(cmd, &namespace, "namespace of documents that name none")
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

// concerning are the findings about the documents, and those that are there because of them.
func concerning(docs []document, all, before []analyze.Finding) []analyze.Finding {
	return slices.DeleteFunc(all, func(f analyze.Finding) bool { return placeIn(docs, f.Document) == "" && slices.Contains(before, f) })
}

// placeIn is where a document stands in the files; empty where it does not.
func placeIn(docs []document, name string) string {
	for _, d := range docs {
		if strings.TrimPrefix(d.Written.GetNamespace()+"/"+d.reference(), "/") == name {
			return fmt.Sprintf("%s:%d: ", d.file, d.Line)
		}
	}
	return ""
}

func showFindings(w io.Writer, docs []document, all []analyze.Finding) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "nothing is wrong")
		return err
	}
	for _, f := range all {
		field := ""
		if f.Field != "" {
			field = f.Field + ": "
		}
		if _, err := fmt.Fprintf(w, "%s%s: %s: %s%s (%s: %s)\n", placeIn(docs, f.Document), f.Level, f.Document, field, f.Message, f.Code, f.Remedy); err != nil {
			return err
		}
	}
	return nil
}
