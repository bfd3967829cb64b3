package docs

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// goFiles are the Go files of the repository, as paths from its root: those that are committed, or all where this is no
// clone.
func goFiles(t *testing.T) []string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "git", "-C", "..", "ls-files", "*.go").Output(); err == nil {
		return strings.Fields(string(out))
	}
	var all []string
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") {
			all = append(all, filepath.ToSlash(strings.TrimPrefix(path, "../")))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func content(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestArchitectureNamesEveryPackage keeps the map whole, and free of what is not there any more.
func TestArchitectureNamesEveryPackage(t *testing.T) {
	t.Parallel()
	text := content(t, "../ARCHITECTURE.md")
	folders := map[string]bool{}
	for _, file := range goFiles(t) {
		folders[filepath.ToSlash(filepath.Dir(file))] = true
	}
	if len(folders) < 20 {
		t.Fatalf("only %d packages were found", len(folders))
	}
	for folder := range folders {
		if !strings.Contains(text, "`"+folder+"`") {
			t.Errorf("ARCHITECTURE.md does not name `%s`", folder)
		}
	}
	for _, named := range regexp.MustCompile("`((?:pkg|cmd|internal|test)/[a-z0-9/]+)`").FindAllStringSubmatch(text, -1) {
		if !folders[named[1]] {
			t.Errorf("ARCHITECTURE.md names `%s`, which is not there", named[1])
		}
	}
	// The files to start with stand in the rows of the packages.
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9/]+)` \\|.*\\| ((?:`[a-z_.]+`(?:, )?)+) \\|$").FindAllStringSubmatch(text, -1) {
		for _, file := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			if _, err := os.Stat(filepath.Join("..", row[1], file[1])); err != nil {
				t.Errorf("ARCHITECTURE.md begins %s at a file that is not there: %v", row[1], err)
			}
		}
	}
}

// TestEveryDependencyHasItsReason compares decisions/dependencies.md with go.mod and with what is imported. What
// go.mod requires and nobody imports is the business of `go mod tidy`.
func TestEveryDependencyHasItsReason(t *testing.T) {
	t.Parallel()
	reasons := content(t, "decisions/dependencies.md")
	var direct []string
	for line := range strings.Lines(content(t, "../go.mod")) {
		fields := strings.Fields(line)
		if len(fields) > 1 && !strings.Contains(line, "// indirect") && strings.HasPrefix(line, "\t") {
			direct = append(direct, fields[0])
		}
	}
	if len(direct) < 20 {
		t.Fatalf("only %d requirements were read from go.mod", len(direct))
	}
	used := map[string]bool{}
	for _, file := range goFiles(t) {
		if strings.HasPrefix(file, "test/kubectl/") || strings.HasPrefix(file, "test/helm/") || strings.HasPrefix(file, "test/oidc/") || strings.HasPrefix(file, "test/stepca/") || strings.HasPrefix(file, "test/pebble/") || strings.HasPrefix(file, "test/grpc/") || strings.HasPrefix(file, "test/conformance/") { // modules of their own
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.ImportsOnly)
		if os.IsNotExist(err) {
			continue // committed, and removed in this work tree
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			for _, module := range direct {
				used[module] = used[module] || path == module || strings.HasPrefix(path, module+"/")
			}
		}
	}
	for _, module := range direct {
		if used[module] && !strings.Contains(reasons, "| `"+module+"` |") {
			t.Errorf("decisions/dependencies.md does not say why %s is there", module)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(reasons, -1) {
		if !slices.Contains(direct, row[1]) {
			t.Errorf("decisions/dependencies.md has a reason for %s, which go.mod does not require", row[1])
		}
	}
}

// TestEveryDecisionIsInTheIndex keeps decisions/README.md whole.
func TestEveryDecisionIsInTheIndex(t *testing.T) {
	t.Parallel()
	index := content(t, "decisions/README.md")
	records, err := filepath.Glob("decisions/[0-9]*.md")
	if err != nil || len(records) == 0 {
		t.Fatal("no records", err)
	}
	for _, record := range records {
		if name := filepath.Base(record); !strings.Contains(index, "]("+name+")") {
			t.Errorf("decisions/README.md does not list %s", name)
		}
	}
}

// TestNamedTestsExist: where a page says which test shows a property, that test is there.
func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	all := map[string]bool{}
	for _, file := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		data, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			continue // committed, and removed in this work tree
		}
		for _, f := range declared.FindAllStringSubmatch(string(data), -1) {
			all[f[1]] = true
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`")
	found := 0
	for _, page := range pages(t) {
		for _, n := range named.FindAllStringSubmatch(content(t, page), -1) {
			found++
			if !all[n[1]] {
				t.Errorf("%s names %s, and there is no such test", page, n[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d tests are named in all pages", found)
	}
}
