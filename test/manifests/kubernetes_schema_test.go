package manifests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

// kubernetesVersions are the least version that deploy/kubernetes/README.md wants, and the newest whose schemas the module has.
var kubernetesVersions = []string{"1.28", "1.30"}

// Modules that carry schemas as files; nothing of them is compiled, so that they are not in go.mod but here, with their sums.
const (
	kubernetesModule = "sigs.k8s.io/kubectl-validate@v0.0.4" // the API server's own OpenAPI documents
	kubernetesSum    = "h1:tGKuv0awYHn11Cb6KPsZKxUmHgavF46K3NvVH0Nse9U="
	databaseModule   = "github.com/cloudnative-pg/cloudnative-pg@v1.27.0" // the operator's definition of its Cluster
	databaseSum      = "h1:mp0zlYO4vKAJmQdArWORWKr1lmB4Hj8JeBQGX5RBnpg="
)

// moduleFolder is where Go keeps that very version of a module.
func moduleFolder(t *testing.T, module, sum string) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = t.TempDir()     // in no module: what is downloaded is nobody's requirement
	text, err := cmd.Output() // what is wrong stands in it too
	var got struct{ Dir, Sum, Error string }
	if e := json.Unmarshal(text, &got); err != nil || e != nil || got.Dir == "" {
		missing(t, "%s: %v, %v, %s", module, err, e, got.Error)
	}
	if got.Sum != sum {
		t.Fatalf("%s is %s, want %s", module, got.Sum, sum)
	}
	return got.Dir
}

// checker says what is wrong with a manifest, by the schemas of who reads it.
type checker struct {
	compiler *jsonschema.Compiler
	core     string                        // folder with a document of each group and version
	schemas  map[string]*jsonschema.Schema // of "GROUP/VERSION KIND"
}

// newChecker knows Kubernetes' own kinds at that version, and CloudNativePG's Cluster.
func newChecker(t *testing.T, version string) *checker {
	t.Helper()
	c := &checker{
		compiler: jsonschema.NewCompiler(),
		core:     filepath.Join(moduleFolder(t, kubernetesModule, kubernetesSum), "pkg", "openapiclient", "builtins", version),
		schemas:  map[string]*jsonschema.Schema{},
	}
	c.compiler.DefaultDraft(jsonschema.Draft4) // what OpenAPI 3.0 is made of
	for _, group := range []string{"v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1"} {
		c.addGroup(t, group)
	}
	c.addDefinition(t, filepath.Join(moduleFolder(t, databaseModule, databaseSum), "config", "crd", "bases", "postgresql.cnpg.io_clusters.yaml"))
	return c
}

// addGroup takes the kinds of a group of Kubernetes' own.
func (c *checker) addGroup(t *testing.T, group string) {
	t.Helper()
	path := "apis/" + group
	if group == "v1" {
		path = "api/v1"
	}
	text, err := os.ReadFile(filepath.Join(c.core, filepath.FromSlash(path)+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	schemas := document["components"].(map[string]any)["schemas"].(map[string]any)
	if quantity, found := schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"]; found {
		// The document says no more than "string"; this is the pattern of the API server in other makers' definitions.
		quantity.(map[string]any)["pattern"] = `^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$`
	}
	closed(schemas, false)
	url := "kubernetes:///" + group
	if err := c.compiler.AddResource(url, map[string]any{"components": map[string]any{"schemas": schemas}}); err != nil {
		t.Fatal(err)
	}
	for name, schema := range schemas {
		kinds, _ := schema.(map[string]any)["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 { // those of every group, as DeleteOptions
			continue
		}
		k := kinds[0].(map[string]any)
		apiVersion := strings.TrimPrefix(fmt.Sprintf("%s/%s", k["group"], k["version"]), "/")
		compiled, err := c.compiler.Compile(url + "#/components/schemas/" + name)
		if err != nil {
			t.Fatal(err)
		}
		c.schemas[apiVersion+" "+k["kind"].(string)] = compiled
	}
}

// addDefinition takes the kinds of a CustomResourceDefinition.
func (c *checker) addDefinition(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var definition struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema map[string]any }
			}
		}
	}
	if err := yaml.Unmarshal(text, &definition); err != nil {
		t.Fatal(err)
	}
	for _, version := range definition.Spec.Versions {
		schema := version.Schema.OpenAPIV3Schema
		closed(schema, true)
		schema["properties"].(map[string]any)["metadata"] = map[string]any{"$ref": "kubernetes:///v1#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
		apiVersion := definition.Spec.Group + "/" + version.Name
		url := "kubernetes:///" + apiVersion + "/" + definition.Spec.Names.Kind
		if err := c.compiler.AddResource(url, schema); err != nil {
			t.Fatal(err)
		}
		compiled, err := c.compiler.Compile(url)
		if err != nil {
			t.Fatal(err)
		}
		c.schemas[apiVersion+" "+definition.Spec.Names.Kind] = compiled
	}
}

// closed makes objects refuse fields that they do not name, where the API server prunes or refuses them: everywhere but in maps
// and where the schema says to keep what is unknown. With structural an object without any field named is empty.
func closed(schema any, structural bool) {
	switch s := schema.(type) {
	case map[string]any:
		_, named := s["properties"].(map[string]any)
		_, mapped := s["additionalProperties"]
		keep, _ := s["x-kubernetes-preserve-unknown-fields"].(bool)
		if (named || structural && s["type"] == "object") && !mapped && !keep {
			s["additionalProperties"] = false
		}
		for _, inner := range s {
			closed(inner, structural)
		}
	case []any:
		for _, inner := range s {
			closed(inner, structural)
		}
	}
}

// check says what is wrong with a manifest. Strimzi's are for [TestStrimzi].
func (c *checker) check(text []byte) error {
	var document map[string]any
	if err := yaml.UnmarshalStrict(text, &document); err != nil { // no key twice
		return err
	}
	kind := fmt.Sprintf("%v %v", document["apiVersion"], document["kind"])
	if schema, found := c.schemas[kind]; found {
		return schema.Validate(document)
	}
	switch {
	case slices.Contains([]string{"Kafka", "KafkaNodePool", "KafkaUser"}, strings.TrimPrefix(kind, "kafka.strimzi.io/v1beta2 ")):
		return nil
	case kind == "monitoring.coreos.com/v1 ServiceMonitor":
		return checkMonitor(text)
	}
	return fmt.Errorf("%s: nothing to check it by", kind)
}

// checkMonitor reads a ServiceMonitor by the operator's Go types, from which its definition is generated; they do not say what must be there.
func checkMonitor(text []byte) error {
	var m monitoring.ServiceMonitor
	if err := yaml.UnmarshalStrict(text, &m); err != nil {
		return err
	}
	if len(m.Spec.Endpoints) == 0 || len(m.Spec.Selector.MatchLabels)+len(m.Spec.Selector.MatchExpressions) == 0 {
		return fmt.Errorf("%s: no endpoints, or no selector", m.Name)
	}
	return nil
}
