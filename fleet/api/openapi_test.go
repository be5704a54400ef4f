package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/waybill-telematics/waybill/fleet/api"
)

// schemas is openapi.yaml, whose schemas are those of JSON Schema 2020-12: a validator that is not ours holds answers against it.
type schemas struct {
	document map[string]any
	compiler *jsonschema.Compiler
}

func loadSchemas(t *testing.T) *schemas {
	t.Helper()
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	s := &schemas{document: document.(map[string]any), compiler: jsonschema.NewCompiler()}
	s.compiler.AssertFormat()
	if err := s.compiler.AddResource("openapi.json", document); err != nil {
		t.Fatal(err)
	}
	return s
}

// operation finds what the document says of a request.
func (s *schemas) operation(method, path string) (name string, operation map[string]any) {
	path, _, _ = strings.Cut(path, "?")
	parts := strings.Split(path, "/")
	for name, item := range s.document["paths"].(map[string]any) {
		if want := strings.Split(name, "/"); len(want) == len(parts) {
			fits := true
			for i := range want {
				fits = fits && (want[i] == parts[i] || strings.HasPrefix(want[i], "{"))
			}
			if operation, ok := item.(map[string]any)[strings.ToLower(method)].(map[string]any); fits && ok {
				return name, operation
			}
		}
	}
	return "", nil
}

// check holds an answer against the document.
func (s *schemas) check(t *testing.T, method, path string, status int, text []byte) {
	t.Helper()
	name, operation := s.operation(method, path)
	pointer := "#/components/schemas/Problem"
	if status < 300 {
		if operation == nil {
			t.Errorf("%s %s is answered and does not stand in the document", method, path)
			return
		}
		escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace
		pointer = fmt.Sprintf("#/paths/%s/%s/responses/%d/content/application~1json/schema", escape(name), strings.ToLower(method), status)
	}
	s.validate(t, pointer, method+" "+path, text)
}

func (s *schemas) validate(t *testing.T, pointer, what string, text []byte) {
	t.Helper()
	schema, err := s.compiler.Compile("openapi.json" + pointer)
	if err != nil {
		t.Fatalf("%s: %v", pointer, err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v\n%s", what, err, text)
	}
	if err := schema.Validate(value); err != nil {
		t.Errorf("%s: the answer is not as the document says: %v\n%.2000s", what, err, text)
	}
}

// Every route stands in the document, and every operation of the document is answered.
func TestDocumentHasEveryRoute(t *testing.T) {
	s := loadSchemas(t)
	var told []string
	for path, item := range s.document["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			if method != "parameters" {
				told = append(told, strings.ToUpper(method)+" "+path)
			}
		}
	}
	sort.Strings(told)
	routes := api.Routes()
	sort.Strings(routes)
	if fmt.Sprint(told) != fmt.Sprint(routes) {
		t.Errorf("the document has\n%v\nthe server has\n%v", strings.Join(told, "\n"), strings.Join(routes, "\n"))
	}
}

// Every parameter of the document is taken; that others are refused is tryWrongQuestions.
func tryDocumentParametersAreTaken(t *testing.T, w *world) {
	values := map[string]string{"tenant": "acme", "device": "car-01", "q": "a", "state": "online", "limit": "3", "cursor": "", "signal": "x", "from": "2026-11-22T12:00:00Z",
		"to": "2026-11-22T13:00:00Z", "points": "10", "source": "gps0"}
	for path, item := range w.schemas.document["paths"].(map[string]any) {
		operation, ok := item.(map[string]any)["get"].(map[string]any)
		if !ok || path == "/live" || path == "/openapi.yaml" {
			continue
		}
		query := url.Values{}
		list, _ := operation["parameters"].([]any)
		for _, p := range list {
			p := p.(map[string]any)
			if ref, ok := p["$ref"].(string); ok {
				p = w.schemas.document["components"].(map[string]any)["parameters"].(map[string]any)[ref[strings.LastIndex(ref, "/")+1:]].(map[string]any)
			}
			name := p["name"].(string)
			value, ok := values[name]
			if !ok {
				t.Fatalf("%s: no value for %s", path, name)
			}
			query.Set(name, value)
		}
		get[any](w, strings.NewReplacer("{tenant}", "acme", "{device}", "car-01").Replace(path)+"?"+query.Encode())
	}
}
