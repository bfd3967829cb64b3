package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

// A document is one of a file, and where that is.
type document struct {
	api.Document
	file string
}

// at is how the document is named in errors.
func (d document) at() string { return fmt.Sprintf("%s:%d: %s", d.file, d.Line, d.reference()) }

func (d document) reference() string { return reference(d.Kind, d.Written.GetName()) }

func (d document) target() client.Target { return client.Of(d.Kind, d.Written) }

// filesFlag adds -f.
func filesFlag(cmd *cobra.Command, to *[]string, use string) {
	cmd.Flags().StringArrayVarP(to, "filename", "f", nil, use)
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
}

// readDocuments reads files, all *.yaml, *.yml and *.json of directories, and standard input for "-". It returns
// the documents in an order in which what others refer to comes first, or everything that is wrong with any of them.
// Documents without a namespace get this one.
func readDocuments(stdin io.Reader, paths []string, namespace string) ([]document, error) {
	var docs []document
	var errs []error
	for _, path := range paths {
		files, err := expand(path)
		errs = append(errs, err)
		for _, file := range files {
			data, err := readFile(stdin, file)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if file == "-" {
				file = "<stdin>"
			}
			found, err := api.Decode(file, data)
			errs = append(errs, err)
			for _, d := range found {
				docs = append(docs, document{d, file})
			}
		}
	}
	first := map[client.Target]document{}
	for _, d := range docs {
		if d.Kind.Namespaced && d.Written.GetNamespace() == "" {
			d.Written.SetNamespace(namespace)
		}
		if other, twice := first[d.target()]; twice {
			errs = append(errs, fmt.Errorf("%s: is given twice, before in %s:%d", d.at(), other.file, other.Line))
		}
		first[d.target()] = d
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("there is no document in %s", strings.Join(paths, ", "))
	}
	kinds := api.Kinds()
	slices.SortStableFunc(docs, func(a, b document) int { return slices.Index(kinds, a.Kind) - slices.Index(kinds, b.Kind) })
	return docs, nil
}

// expand lists the files that a path stands for.
func expand(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	var files []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".yaml", ".yml", ".json":
			if !e.IsDir() {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("read documents: the directory %s has no *.yaml, *.yml or *.json in it", path)
	}
	return files, nil
}

// readFile reads one file whole; api.Decode refuses what is too large, so that no more needs to be read.
func readFile(stdin io.Reader, path string) ([]byte, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read documents: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, api.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	return data, nil
}
