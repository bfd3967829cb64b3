package compile_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestRoutes compiles the documents of each file in testdata/routes, feeds a node's table with the result,
// and asks it what the file's requests ask. testdata/routes/README.md describes the files.
func TestRoutes(t *testing.T) {
	files, err := filepath.Glob("testdata/routes/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			documents, requests, found := strings.Cut(string(text), "\nrequests\n")
			if !found {
				t.Fatal(`there is no line "requests"`)
			}
			table := tableOf(t, documents)
			callee, port, outside, asked := exchange.ServiceName{}, uint16(0), false, 0
			for i, line := range strings.Split(requests, "\n") {
				where := fmt.Sprintf("%s:%d: %s", file, strings.Count(documents, "\n")+i+3, line)
				to, ok := strings.CutPrefix(line, "to ")
				if at, through := strings.CutPrefix(line, "at "); through {
					to, ok, outside = at, true, true
				} else if ok {
					outside = false
				}
				if ok {
					name, number, _ := strings.Cut(to, ":")
					n, err := strconv.ParseUint(number, 10, 16)
					if err != nil {
						t.Fatalf("%s: %v", where, err)
					}
					callee, port = service(t, name), uint16(n)
				} else if line != "" && !strings.HasPrefix(line, "#") {
					ask(t, table, where, line, callee, port, outside)
					asked++
				}
			}
			if asked == 0 {
				t.Error("nothing was asked")
			}
		})
	}
}

// ask routes the request of one line and compares the outcome.
func ask(t *testing.T, table *routing.Table, where, line string, callee exchange.ServiceName, port uint16, outside bool) {
	t.Helper()
	request, want, found := strings.Cut(line, "->")
	words := strings.Fields(request)
	caller := exchange.ServiceName{Namespace: "shop", Name: "web"}
	if len(words) > 2 && words[0] == "as" {
		caller, words = service(t, words[1]), words[2:]
	}
	if !found || len(words) < 2 {
		t.Fatalf("%s: want METHOD PATH name=value… -> outcome", where)
	}
	req := &exchange.Request{Method: words[0], Scheme: "http", Authority: callee.Name, Path: words[1]}
	for _, word := range words[2:] {
		name, value, _ := strings.Cut(word, "=")
		if outside && name == "Host" {
			req.Authority = value
			continue
		}
		req.Fields = append(req.Fields, exchange.Field{Name: name, Value: value})
	}
	var d routing.Decision
	call := &routing.Call{Caller: caller, Callee: callee, Port: port, Now: time.Unix(1, 0), Random: rand.NewPCG(1, 1)}
	if outside {
		call.Caller = callee
		table.PickIngress(call, req, &d)
	} else {
		table.Pick(call, req, &d)
	}
	defer d.Done()
	got := d.Service.Name
	if d.Status != 0 && d.Reason != exchange.NoInstance {
		got = strconv.Itoa(d.Status)
	}
	if location, ok := d.Fields.Get("Location"); ok {
		got += " " + location
	}
	if d.Status == 0 || d.Reason == exchange.NoInstance {
		if d.Rewrites() {
			d.Rewrite(req)
			got += " " + req.Authority + req.Path
			for _, f := range req.Fields {
				got += " " + f.Name + "=" + f.Value
			}
		}
	}
	if got != strings.TrimSpace(want) {
		t.Errorf("%s\n\tgoes to %s (rule %q, %s)", where, got, d.Rule, d.Detail)
	}
}

func tableOf(t *testing.T, documents string) *routing.Table {
	t.Helper()
	in := compile.InputOf(t, documents)
	table := routing.New()
	compiled := compile.Compile(in)
	for subject, body := range compiled.Bodies {
		if names, err := snapshot.ParseSubject(subject); err != nil {
			t.Fatal(names, err)
		}
		if _, err := table.Apply(subject, snapshot.Version{Revision: 1}, body); err != nil {
			t.Fatal(err)
		}
	}
	for _, service := range in.Services {
		// What was not compiled does not exist, as a controller's answer says.
		if _, err := table.Apply(snapshot.OutSubject(service.Namespace, service.Name, "desk"), snapshot.Version{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range table.Needs() {
		if compiled.Bodies[subject] == nil {
			t.Errorf("the compiler refers to %s, which it did not make", subject)
		}
	}
	return table
}

func service(t *testing.T, s string) exchange.ServiceName {
	t.Helper()
	name, err := exchange.ParseServiceName(s)
	if err != nil {
		t.Fatal(err)
	}
	return name
}
