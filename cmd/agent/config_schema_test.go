package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/waybill-telematics/waybill/examples"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// printed runs a command and gives back what it prints.
func printed(t *testing.T, args ...string) string {
	t.Helper()
	var out, stderr bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	if code := cli.Execute(root, args, &stderr); code != 0 {
		t.Fatalf("%v: exit code %d\n%s", args, code, stderr.String())
	}
	return out.String()
}

func TestDocumentsAreMadeFromTheKeys(t *testing.T) {
	for _, doc := range []struct {
		file, after string
		args        []string
	}{
		{"agent.schema.json", "", []string{"config", "schema"}},
		{"CONFIGURATION.md", referenceMark, []string{"config", "reference"}},
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", doc.file))
		if err != nil {
			t.Fatal(err)
		}
		_, made, found := strings.Cut(string(text), doc.after)
		if want := printed(t, doc.args...); !found || made != want {
			t.Errorf("docs/%s is not what `waybill-agent %s` prints; make docs", doc.file, strings.Join(doc.args, " "))
		}
	}
}

// referenceMark ends what is written by hand in docs/CONFIGURATION.md.
const referenceMark = "<!-- made by make docs -->\n"

// configPaths are the keys of the configuration; groups too.
func configPaths(t reflect.Type, path string, paths []string) []string {
	for _, field := range keysOf(t) {
		inner := strings.TrimPrefix(path+"."+field.Tag.Get("yaml"), ".")
		paths = configPaths(field.Type, inner, append(paths, inner))
	}
	return paths
}

func TestExampleSaysSomethingOfEveryKey(t *testing.T) {
	comments := exampleComments(examples.Agent)
	groups := []string{"device", "log", "collect", "collect.rules", "queue", "uplink", "metrics", "power.ignition"}
	paths := configPaths(reflect.TypeOf(config{}), "", nil)
	for _, path := range paths {
		if comments[path].text == "" && !slices.Contains(groups, path) {
			t.Errorf("examples/agent.yaml says nothing of %s", path)
		}
	}
	for path := range comments {
		parent := path[:max(0, strings.LastIndex(path, "."))]
		if !slices.Contains(paths, path) && !slices.Contains([]string{"queue.lanes", "uplink.format", "uplink.links.budget"}, parent) {
			t.Errorf("examples/agent.yaml has a comment for %q, which is no key", path)
		}
	}
	if text := comments["can.record"].text; !strings.HasSuffix(text, "default: none") {
		t.Errorf("a comment of several lines is read as %q", text)
	}
	if text := comments["can.diagnose"].text; !strings.HasPrefix(text, "What the agent may ask") {
		t.Errorf("a comment above a key is read as %q", text)
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(printed(t, "config", "schema")))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("agent.schema.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("agent.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// wholeExample is the example with everything that is commented out in it.
func wholeExample() string {
	var lines []string
	column := -1
	for line := range strings.Lines(examples.Agent) {
		line, isComment := uncomment(strings.TrimRight(line, "\n"), column)
		rest, comment := splitComment(line)
		if column = -1; comment != "" && !isComment {
			column = len(rest) - len(strings.TrimLeft(rest, " -"))
		}
		if !isComment {
			lines = append(lines, rest)
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// validateYAML holds a YAML text against the schema as an editor does.
func validateYAML(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(text), &root); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return validateNode(t, s, &root)
}

func validateNode(t *testing.T, s *jsonschema.Schema, root *yaml.Node) error {
	t.Helper()
	var value any
	if err := root.Decode(&value); err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(plain)); err != nil {
		t.Fatal(err)
	}
	return s.Validate(value)
}

func TestSchemaAcceptsTheExamples(t *testing.T) {
	s := compileSchema(t)
	texts := map[string]string{"all of agent.yaml": wholeExample()}
	for _, name := range []string{"agent.yaml", "bench.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "examples", name))
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
	}
	for name, text := range texts {
		if err := validateYAML(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.Contains(texts["all of agent.yaml"], "\n    diagnose:\n") || !strings.Contains(texts["all of agent.yaml"], "\npower:\n") {
		t.Error("what is commented out in the example is not tried")
	}
}

// What the schema refuses, the agent refuses as well: an editor marks nothing that would work. Each value of the whole
// example is replaced by others.
func TestSchemaIsNoStricterThanTheAgent(t *testing.T) {
	s := compileSchema(t)
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(wholeExample()), &root); err != nil {
		t.Fatal(err)
	}
	base := complaints(&root)
	var scalars []*yaml.Node
	var walk func(*yaml.Node)
	walk = func(n *yaml.Node) {
		for i, child := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 0 {
				continue
			}
			walk(child)
		}
		if n.Kind == yaml.ScalarNode {
			scalars = append(scalars, n)
		}
	}
	walk(&root)
	refused := 0
	for _, n := range scalars {
		was := *n
		for _, with := range []string{"5s", "0", "1.5", "words", "8 kB", "true", "[a]", "receipt", "+1h2m.5s"} {
			var other yaml.Node
			if err := yaml.Unmarshal([]byte(with), &other); err != nil {
				t.Fatal(err)
			}
			*n = *other.Content[0]
			if with == "1.5" && was.Tag == "!!int" {
				continue // the agent cuts the fraction off, which nobody means
			}
			if validateNode(t, s, &root) != nil {
				refused++
				if complaints(&root) <= base {
					t.Errorf("the schema refuses %s in place of %q (line %d), the agent does not", with, was.Value, was.Line)
				}
			}
		}
		*n = was
	}
	if refused < 4*len(scalars) {
		t.Errorf("of %d values the schema refused %d others: it says too little", len(scalars), refused)
	}
}

// complaints counts what the agent has against a configuration, by its words alone.
func complaints(root *yaml.Node) int {
	d := &document{file: "whole.yaml", root: root}
	if err := root.Decode(&d.config); err != nil {
		return 1000
	}
	_, err := check(d)
	if err == nil {
		return 0
	}
	return len(strings.Split(err.Error(), "\n"))
}

func TestTextKinds(t *testing.T) {
	for example, want := range map[string]string{"5s": "duration", "1h30m": "duration", "0": "text", "16MiB": "size", "50MB": "size",
		"9600": "text", "2%": "text", "words": "text", "KB": "text", "": "text"} {
		if got := textKind(nil, example); got != want {
			t.Errorf("%q is %s, want %s", example, got, want)
		}
	}
}
