package manifests

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const cluster = "../../deploy/kubernetes"

// build makes the manifests of a folder as `kubectl kustomize` does.
func build(t *testing.T, folder string) (documents [][]byte) {
	t.Helper()
	all, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(cluster, folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, text)
	}
	return documents
}

// TestKubernetes: every manifest of the example is one for its API, at the oldest version of Kubernetes that we name and at a newer one.
func TestKubernetes(t *testing.T) {
	documents := build(t, "example")
	for _, version := range kubernetesVersions {
		c := newChecker(t, version)
		for _, document := range documents {
			if err := c.check(document); err != nil {
				t.Errorf("Kubernetes %s: %v\n%s", version, err, document)
			}
		}
	}
	kinds := map[string]int{}
	for _, o := range objects(t, documents) {
		kinds[o.Kind]++
	}
	for kind, least := range map[string]int{"Namespace": 1, "StatefulSet": 2, "Job": 1, "Service": 4, "PodDisruptionBudget": 2, "NetworkPolicy": 4, "ConfigMap": 1,
		"Kafka": 1, "KafkaNodePool": 1, "KafkaUser": 1, "Cluster": 1, "ServiceMonitor": 1} {
		if kinds[kind] < least {
			t.Errorf("%d of %s, want %d", kinds[kind], kind, least)
		}
	}
}

// TestKubernetesFolders: each folder builds by itself, so that one can be left out for what an operator has already.
func TestKubernetesFolders(t *testing.T) {
	c := newChecker(t, kubernetesVersions[0])
	for _, folder := range []string{"base", "fleet", "emqx", "kafka", "postgres"} {
		for _, document := range build(t, folder) {
			if err := c.check(document); err != nil {
				t.Errorf("%s: %v", folder, err)
			}
		}
	}
}

// TestKubernetesRefusesWhatIsBroken: the schemas would notice.
func TestKubernetesRefusesWhatIsBroken(t *testing.T) {
	documents := build(t, "example")
	c := newChecker(t, kubernetesVersions[0])
	for name, change := range map[string][3]string{ // kind, what, in its place
		"an unknown field of a pod":          {"StatefulSet", "terminationGracePeriodSeconds:", "terminationGraceSeconds:"},
		"an unknown field of a container":    {"StatefulSet", "readinessProbe:", "readyProbe:"},
		"a wrong type":                       {"StatefulSet", "replicas: 2", "replicas: two"},
		"a field that has to be there":       {"StatefulSet", "  serviceName: waybill-fleet\n", ""},
		"a quantity that is none":            {"StatefulSet", "memory: 512Mi", "memory: 512Mib"},
		"an unknown field of metadata":       {"StatefulSet", "metadata:\n  labels:", "metadata:\n  label:"},
		"a key twice":                        {"StatefulSet", "  replicas: 2\n", "  replicas: 2\n  replicas: 3\n"},
		"an unknown field of a job":          {"Job", "backoffLimit:", "backOffLimit:"},
		"a job without a template":           {"Job", "  template:", "  templates:"},
		"an unknown field of a policy":       {"NetworkPolicy", "policyTypes:", "policyType:"},
		"a port that is none":                {"NetworkPolicy", "port: 53\n", "port: [53]\n"},
		"an unknown field of a budget":       {"PodDisruptionBudget", "maxUnavailable:", "maxUnavailables:"},
		"a service's port without a port":    {"Service", "    port: 443\n", ""},
		"a number in a ConfigMap":            {"ConfigMap", "data:\n", "data:\n  number: 1\n"},
		"an unknown field of the database":   {"Cluster", "instances:", "instance:"},
		"a value that the database has not":  {"Cluster", "method: any", "method: all"},
		"the database without a method":      {"Cluster", "      method: any\n", ""},
		"a number where the database reads":  {"Cluster", `jit: "off"`, "jit: 0"},
		"an unknown field of the monitoring": {"ServiceMonitor", "scrapeTimeout:", "scrapeTimeouts:"},
		"monitoring of nothing":              {"ServiceMonitor", "  selector:\n    matchLabels:\n      app.kubernetes.io/name: waybill-fleet\n", ""},
		"an unknown kind":                    {"Job", "kind: Job", "kind: Jobs"},
		"an API that is gone":                {"PodDisruptionBudget", "policy/v1", "policy/v1beta1"},
	} {
		changed := false
		for _, document := range documents {
			broken := bytes.Replace(document, []byte(change[1]), []byte(change[2]), 1)
			if !bytes.Contains(document, []byte("\nkind: "+change[0]+"\n")) || bytes.Equal(broken, document) {
				continue
			}
			changed = true
			if err := c.check(broken); err == nil {
				t.Errorf("%s is not noticed", name)
			}
		}
		if !changed {
			t.Errorf("%s: nothing was broken", name)
		}
	}
}

// TestKubernetesRules: EMQX gets deploy/emqx's own configuration, and the example its access rules with a tenant in them.
func TestKubernetesRules(t *testing.T) {
	read := func(file string) string {
		text, err := os.ReadFile(filepath.Join(cluster, "..", file))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	rules := func(text string) string { return regexp.MustCompile(`(?m)^%.*\n`).ReplaceAllString(text, "") }
	if got, want := rules(read("kubernetes/example/acl.conf")), strings.ReplaceAll(rules(read("emqx/acl.conf")), "TENANT", "acme"); got != want {
		t.Errorf("the example's rules:\n%s\nwant:\n%s", got, want)
	}
	for _, document := range build(t, "example") {
		var m struct {
			Kind string
			Data map[string]string
		}
		if err := yaml.Unmarshal(document, &m); err != nil {
			t.Fatal(err)
		}
		if m.Kind != "ConfigMap" {
			continue
		}
		if m.Data["base.hocon"] != read("emqx/emqx.conf") || m.Data["waybill-acl.conf"] != read("kubernetes/example/acl.conf") {
			t.Errorf("EMQX gets other files: %s", document)
		}
	}
}

// TestKubernetesVersions: what README.md wants of a cluster is what the manifests are held against.
func TestKubernetesVersions(t *testing.T) {
	readme := clusterReadme(t)
	fetch, err := os.ReadFile("../deps/fetch.sh")
	if err != nil {
		t.Fatal(err)
	}
	strimzi := regexp.MustCompile(`io\.strimzi:api:(\d+\.\d+)\.`).FindSubmatch(fetch)
	if strimzi == nil {
		t.Fatal("fetch.sh brings no Strimzi")
	}
	database := regexp.MustCompile(`@v(\d+\.\d+)\.`).FindStringSubmatch(databaseModule)
	for _, want := range []string{"Kubernetes " + kubernetesVersions[0] + " or later", "Strimzi " + string(strimzi[1]) + " (", "CloudNativePG " + database[1] + ","} {
		if !strings.Contains(readme, want) {
			t.Errorf("README.md does not say %q", want)
		}
	}
}
