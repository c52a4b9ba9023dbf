// Package internal_test holds the picture of the packages as a test, so that the
// picture cannot rot.
package internal_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/leafd/leafd/"

// badDeps are imports that a package must not have, itself or through another, in
// its tests neither, and why. A name without a dot is a package of this module.
var badDeps = map[string]map[string]string{
	"leaf": {
		"storefwd":   "the broker must not know storage: a log is one more Sink",
		"hw":         "the broker must not know hardware",
		"mqttbridge": "MQTT stands on the broker, not the other way round",
	},
	"storefwd": {
		"leaf":       "a log must not know the broker: it has its own Uplink interface",
		"hw":         "a log must not know hardware",
		"mqttbridge": "MQTT stands on the logs, not the other way round",
	},
	"hw": {
		"leaf":       "a sensor publishes through a function it is given",
		"storefwd":   "hardware must not know storage",
		"mqttbridge": "hardware must not know protocols",
	},
	"mqttbridge": {
		"hw": "a protocol must not know hardware",
	},
	"internal/monitor": {
		"leaf":         "cmd/leafd hands it snapshot functions",
		"storefwd":     "cmd/leafd hands it snapshot functions",
		"hw":           "cmd/leafd hands it snapshot functions",
		"mqttbridge":   "cmd/leafd hands it snapshot functions",
		"internal/msg": "cmd/leafd hands it snapshot functions",
	},
}

// stdOnly are the packages that need the standard library alone, and why.
var stdOnly = map[string]string{
	"internal/msg":      "every other package stands on it",
	"mqttbridge/packet": "bytes to packets and back needs nobody",
}

// noIO are the packages that must not import these themselves.
var noIO = map[string][]string{
	"internal/msg":      {"net", "os", "syscall"},
	"mqttbridge/packet": {"net", "os", "syscall"},
}

// onlyIn are imports that belong to one package and those below it, and why.
var onlyIn = map[string]struct{ home, why string }{
	"github.com/coder/websocket":      {"internal/ws", "the rest of the house sees streams of bytes"},
	"periph.io/":                      {"hw", "the rest of the house sees sensors and actuators, not buses and pins"},
	"go.etcd.io/bbolt":                {"storefwd", "the rest of the house sees logs and cursors"},
	"github.com/nats-io/nats-server/": {"cmd/leafd", "of nats-server we use the configuration language alone"},
}

// testsOnly are imports that nothing which becomes part of leafd may have.
var testsOnly = []string{module + "internal/testkit", "github.com/nats-io/nats.go", "pgregory.net/rapid"}

// hotPath is what a newcomer reads in one sitting.
var hotPath = []string{"leaf/parse.go", "leaf/conn.go", "leaf/router.go", "leaf/outbound.go"}

const (
	hotPathLines  = 1500
	functionLines = 100
)

// pkg is the part of go list's answer that the test looks at.
type pkg struct {
	ImportPath, Name, Dir                        string
	Imports, Deps, TestImports, XTestImports     []string
	GoFiles, CgoFiles, TestGoFiles, XTestGoFiles []string
}

// short is the package's directory in the module.
func (p pkg) short() string { return strings.TrimPrefix(p.ImportPath, module) }

// packages are all of this module.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-pgo=off", "-json=ImportPath,Name,Dir,Imports,Deps,TestImports,XTestImports,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages", len(all))
	}
	return all
}

// within reports whether an import path is that of dir in this module, or below it.
func within(importPath, dir string) bool {
	return importPath == module+dir || strings.HasPrefix(importPath, module+dir+"/")
}

// direct are the imports of a package and of its tests.
func (p pkg) direct() []string { return slices.Concat(p.Imports, p.TestImports, p.XTestImports) }

// standard reports whether an import path is of the standard library.
func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		for from, bad := range badDeps {
			if !within(p.ImportPath, from) {
				continue
			}
			for _, dep := range slices.Concat(p.Deps, p.direct()) {
				for to, why := range bad {
					if within(dep, to) {
						t.Errorf("%s depends on %s: %s", p.short(), to, why)
					}
				}
			}
		}
		for _, dep := range p.Deps {
			if why, ok := stdOnly[p.short()]; ok && !standard(dep) {
				t.Errorf("%s depends on %s: %s", p.short(), dep, why)
			}
		}
		for _, dep := range p.Imports {
			if slices.Contains(noIO[p.short()], dep) {
				t.Errorf("%s imports %s: it is to be without input and output", p.short(), dep)
			}
		}
		for _, dep := range p.direct() {
			for prefix, only := range onlyIn {
				if strings.HasPrefix(dep, prefix) && !within(p.ImportPath, only.home) {
					t.Errorf("%s imports %s, only %s may: %s", p.short(), dep, only.home, only.why)
				}
			}
			if strings.HasPrefix(dep, "github.com/nats-io/nats-server/") && path.Base(dep) != "conf" {
				t.Errorf("%s imports %s: of nats-server we use the configuration language alone", p.short(), dep)
			}
			if strings.HasPrefix(dep, module+"cmd/") {
				t.Errorf("%s imports %s: nothing imports the program", p.short(), dep)
			}
		}
		if p.short() == "cmd/leafd" {
			for _, dep := range testsOnly {
				if slices.Contains(p.Deps, dep) {
					t.Errorf("%s depends on %s, which is for tests and tools", p.short(), dep)
				}
			}
		}
	}
}

func TestOneFileKnowsBbolt(t *testing.T) {
	var files []string
	eachFile(t, func(name string, f *ast.File, _ *token.FileSet) {
		for _, i := range f.Imports {
			if strings.HasPrefix(i.Path.Value, `"go.etcd.io/bbolt`) && !strings.HasSuffix(name, "_test.go") {
				files = append(files, name)
			}
		}
	})
	files = slices.Compact(files)
	if len(files) > 1 {
		t.Errorf("bbolt is imported by %v: the engine is to hide it", files)
	}
}

func TestOnePackageCommentInDocGo(t *testing.T) {
	commented := map[string][]string{} // files by directory
	eachFile(t, func(name string, f *ast.File, _ *token.FileSet) {
		dir := filepath.Dir(name)
		if f.Doc != nil && !strings.HasSuffix(name, "_test.go") {
			commented[dir] = append(commented[dir], filepath.Base(name))
		}
	})
	for _, p := range packages(t) {
		if len(p.GoFiles)+len(p.CgoFiles) == 0 {
			continue // tests alone
		}
		if got := commented[p.short()]; !slices.Equal(got, []string{"doc.go"}) {
			t.Errorf("%s has its package comment in %v, it is to be in doc.go alone", p.short(), got)
		}
	}
}

func TestHotPathFitsOneSitting(t *testing.T) {
	lines := map[string]int{}
	eachFile(t, func(name string, f *ast.File, fset *token.FileSet) {
		if slices.Contains(hotPath, name) {
			lines[name] = fset.File(f.FileStart).LineCount()
		}
	})
	total := 0
	for _, n := range lines {
		total += n
	}
	if len(lines) != len(hotPath) || total > hotPathLines {
		t.Errorf("the hot path is %d lines, more than %d, or not in its four files: %v", total, hotPathLines, lines)
	}
}

func TestNoLongFunction(t *testing.T) {
	eachFile(t, func(name string, f *ast.File, fset *token.FileSet) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > functionLines {
				t.Errorf("%s: %s has %d lines, more than %d", name, fn.Name.Name, n, functionLines)
			}
		}
	})
}

func TestNoSleepInTests(t *testing.T) {
	eachFile(t, func(name string, f *ast.File, fset *token.FileSet) {
		if !strings.HasSuffix(name, "_test.go") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && isSelector(call.Fun, "synctest", "Test") {
				return false // there it takes no time
			}
			if isSelector(n, "time", "Sleep") {
				t.Errorf("%s: time.Sleep in a test: wait for what is to happen (testkit.Eventually), or move the clock (testing/synctest)", fset.Position(n.Pos()))
			}
			return true
		})
	})
}

// A connection's times are compared by leaf.Mono: on a machine whose clock is set they would be
// wrong by the step, and devices that are there would be ended, their wills published.
func TestNoWallClockBetweenPackets(t *testing.T) {
	shown := []string{"leaf/life.go", "leaf/parking.go"} // a start that people see, and what happens at full seconds
	eachFile(t, func(name string, f *ast.File, fset *token.FileSet) {
		if strings.HasSuffix(name, "_test.go") || path.Dir(name) != "leaf" && path.Dir(name) != "mqttbridge" || slices.Contains(shown, name) {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && strings.HasPrefix(s.Sel.Name, "Unix") && s.Sel.Name != "UnixConn" && !isSelector(n, "time", "Unix") {
				t.Errorf("%s: %s loses the monotonic time; see leaf.Mono", fset.Position(n.Pos()), s.Sel.Name)
			}
			return true
		})
	})
}

func isSelector(n ast.Node, pkg, name string) bool {
	s, ok := n.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// eachFile calls fn with every Go file of the module and its name from the root.
func eachFile(t *testing.T, fn func(name string, f *ast.File, fset *token.FileSet)) {
	t.Helper()
	const root = ".."
	files := map[string]*ast.File{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(at string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || len(d.Name()) > 2 && d.Name()[0] == '.'):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(at) != ".go":
			return nil
		}
		f, err := parser.ParseFile(fset, at, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, at)
		files[filepath.ToSlash(name)] = f
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fn(name, files[name], fset)
	}
}
