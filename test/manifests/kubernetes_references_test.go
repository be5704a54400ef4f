package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// object is what every manifest begins with, and its whole text.
type object struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`
	text            []byte
}

func objects(t *testing.T, documents [][]byte) (all []object) {
	t.Helper()
	for _, document := range documents {
		o := object{text: document}
		if err := yaml.Unmarshal(document, &o); err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	return all
}

// of reads every manifest of a kind.
func of[T any](all []object, kind string) (list []T) {
	for _, o := range all {
		var v T
		if o.Kind == kind && yaml.Unmarshal(o.text, &v) == nil {
			list = append(list, v)
		}
	}
	return list
}

// workload is what runs pods.
type workload struct {
	name   string
	pod    core.PodTemplateSpec
	claims []core.PersistentVolumeClaim
}

// world is what the manifests hold, what the operators make of them, and what the operator of the fleet has to make by README.md.
type world struct {
	workloads []workload
	services  map[string][]int32           // ports
	files     map[string][]string          // keys of "Secret/NAME" and "ConfigMap/NAME"
	texts     map[string]map[string]string // of ConfigMaps that are here
	errs      []error
}

func (w *world) errorf(format string, args ...any) {
	w.errs = append(w.errs, fmt.Errorf(format, args...))
}

// newWorld derives what the operators make as their documentation names it.
func newWorld(all []object, readme string) *world {
	w := &world{services: map[string][]int32{}, files: map[string][]string{}, texts: map[string]map[string]string{}}
	for _, s := range of[apps.StatefulSet](all, "StatefulSet") {
		w.workloads = append(w.workloads, workload{"StatefulSet/" + s.Name, s.Spec.Template, s.Spec.VolumeClaimTemplates})
	}
	for _, j := range of[batch.Job](all, "Job") {
		w.workloads = append(w.workloads, workload{"Job/" + j.Name, j.Spec.Template, nil})
	}
	for _, m := range of[core.ConfigMap](all, "ConfigMap") {
		w.texts[m.Name] = m.Data
		for key := range m.Data {
			w.files["ConfigMap/"+m.Name] = append(w.files["ConfigMap/"+m.Name], key)
		}
	}
	for _, s := range of[core.Service](all, "Service") {
		for _, p := range s.Spec.Ports {
			w.services[s.Name] = append(w.services[s.Name], p.Port)
		}
	}
	for _, o := range all {
		switch o.Kind {
		case "Kafka":
			var k struct {
				Spec struct {
					Kafka struct{ Listeners []struct{ Port int32 } }
				}
			}
			if err := yaml.Unmarshal(o.text, &k); err != nil {
				w.errorf("%s: %w", o.Name, err)
			}
			for _, l := range k.Spec.Kafka.Listeners {
				w.services[o.Name+"-kafka-bootstrap"] = append(w.services[o.Name+"-kafka-bootstrap"], l.Port)
			}
			w.operatorMakes(readme, o.Name+"-cluster-ca-cert", "ca.crt")
		case "KafkaUser":
			w.operatorMakes(readme, o.Name, "password")
		case "Cluster":
			w.services[o.Name+"-rw"] = []int32{5432}
			w.operatorMakes(readme, o.Name+"-app", "username", "password")
			w.operatorMakes(readme, o.Name+"-ca", "ca.crt")
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (Secret|ConfigMap): (.*)\\|$").FindAllStringSubmatch(readme, -1) {
		for _, key := range regexp.MustCompile("`([a-z.-]+)`").FindAllStringSubmatch(row[3], -1) {
			w.files[row[2]+"/"+row[1]] = append(w.files[row[2]+"/"+row[1]], key[1])
		}
	}
	return w
}

func (w *world) operatorMakes(readme, secret string, keys ...string) {
	w.files["Secret/"+secret] = keys
	if !strings.Contains(readme, "`"+secret+"`") {
		w.errorf("README.md does not name %s, which an operator makes", secret)
	}
}

// mounted gives the files of a volume, by the names that they have in it.
func (w *world) mounted(who string, v core.Volume) (files []string) {
	from := func(name string, items []core.KeyToPath) {
		keys, found := w.files[name]
		if !found {
			w.errorf("%s: %s is neither here nor in README.md", who, name)
		}
		for _, item := range items {
			if !slices.Contains(keys, item.Key) {
				w.errorf("%s: %s has no %s", who, name, item.Key)
			}
			files = append(files, item.Path)
		}
		if len(items) == 0 {
			files = append(files, keys...)
		}
	}
	switch {
	case v.Secret != nil:
		from("Secret/"+v.Secret.SecretName, v.Secret.Items)
	case v.ConfigMap != nil:
		from("ConfigMap/"+v.ConfigMap.Name, v.ConfigMap.Items)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			if source.Secret != nil {
				from("Secret/"+source.Secret.Name, source.Secret.Items)
			}
			if source.ConfigMap != nil {
				from("ConfigMap/"+source.ConfigMap.Name, source.ConfigMap.Items)
			}
		}
	default:
		w.errorf("%s: volume %s is of a kind that this test does not know", who, v.Name)
	}
	return files
}

// checkPod holds a pod to what the namespace wants of it ("restricted"), to what it refers to, and its images to exact tags.
func (w *world) checkPod(p workload) {
	volumes := map[string][]string{}
	for _, v := range p.pod.Spec.Volumes {
		volumes[v.Name] = w.mounted(p.name, v)
	}
	for _, c := range p.claims {
		volumes[c.Name] = nil
	}
	security := p.pod.Spec.SecurityContext
	if security == nil || security.RunAsNonRoot == nil || !*security.RunAsNonRoot || security.SeccompProfile == nil {
		w.errorf("%s may run as root, or any system call", p.name)
	}
	for _, c := range p.pod.Spec.Containers {
		who := p.name + " " + c.Name
		if !regexp.MustCompile(`:\d+\.\d+\.\d+$`).MatchString(c.Image) {
			w.errorf("%s: image %s has no exact tag", who, c.Image)
		}
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") {
			w.errorf("%s may gain privileges", who)
		}
		files := map[string]bool{}
		for _, m := range c.VolumeMounts {
			inside, found := volumes[m.Name]
			if !found {
				w.errorf("%s mounts %s, which is no volume of it", who, m.Name)
			}
			if m.SubPath != "" {
				if !slices.Contains(inside, m.SubPath) {
					w.errorf("%s: %s has no %s", who, m.Name, m.SubPath)
				}
				files[m.MountPath] = true
				continue
			}
			for _, file := range inside {
				files[path.Join(m.MountPath, file)] = true
			}
		}
		w.checkConfiguration(who, p, files, c.Ports)
		for _, arg := range c.Args {
			for _, file := range regexp.MustCompile(`/etc/waybill/[^&]*`).FindAllString(arg, -1) {
				if !files[file] {
					w.errorf("%s: %s is mounted nowhere", who, file)
				}
			}
			w.checkHosts(who, arg)
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				if name, key := e.ValueFrom.SecretKeyRef.Name, e.ValueFrom.SecretKeyRef.Key; !slices.Contains(w.files["Secret/"+name], key) {
					w.errorf("%s: Secret %s with %s is neither here nor in README.md", who, name, key)
				}
			}
			for _, host := range regexp.MustCompile(`([a-z-]+)\.([a-z-]+)\.svc\.`).FindAllStringSubmatch(e.Value, -1) {
				if w.services[host[1]] == nil || host[2] != "waybill" {
					w.errorf("%s: no service %s", who, host[0])
				}
			}
		}
		for name, probe := range map[string]*core.Probe{"startupProbe": c.StartupProbe, "readinessProbe": c.ReadinessProbe, "livenessProbe": c.LivenessProbe} {
			switch {
			case probe == nil && strings.HasPrefix(p.name, "Job/"):
			case probe == nil:
				w.errorf("%s has no %s", who, name)
			case probe.TCPSocket != nil && !opens(p.pod, probe.TCPSocket.Port), probe.HTTPGet != nil && !opens(p.pod, probe.HTTPGet.Port):
				w.errorf("%s: %s asks a port that is not", who, name)
			}
		}
	}
}

// checkConfiguration: the files that a mounted ConfigMap names are there, and the ports on which it listens are the container's.
func (w *world) checkConfiguration(who string, p workload, files map[string]bool, ports []core.ContainerPort) {
	for _, v := range p.pod.Spec.Volumes {
		if v.ConfigMap == nil {
			continue
		}
		for _, text := range w.texts[v.ConfigMap.Name] {
			for _, file := range regexp.MustCompile(`= "(/[^"]+)"`).FindAllStringSubmatch(text, -1) {
				if !files[file[1]] {
					w.errorf("%s: %s names %s, which is mounted nowhere", who, v.ConfigMap.Name, file[1])
				}
			}
			for _, bind := range regexp.MustCompile(`bind = "0\.0\.0\.0:(\d+)"`).FindAllStringSubmatch(text, -1) {
				if !slices.ContainsFunc(ports, func(p core.ContainerPort) bool { return strconv.Itoa(int(p.ContainerPort)) == bind[1] }) {
					w.errorf("%s: %s listens on %s, which is no port of it", who, v.ConfigMap.Name, bind[1])
				}
			}
		}
	}
}

// opens says whether a pod has a port of that name or number.
func opens(pod core.PodTemplateSpec, port intstr.IntOrString) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c core.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p core.ContainerPort) bool {
			return port.Type == intstr.String && p.Name == port.StrVal || port.Type == intstr.Int && p.ContainerPort == port.IntVal
		})
	})
}

// checkHosts: what a flag connects to is a service with that port.
func (w *world) checkHosts(who, arg string) {
	flag, value, _ := strings.Cut(arg, "=")
	if !slices.Contains([]string{"--broker", "--db", "--kafka-brokers", "--brokers"}, flag) {
		return
	}
	if u, err := url.Parse(value); err == nil && u.Host != "" {
		value = u.Host
	}
	for _, address := range strings.Split(value, ",") {
		host, port, err := net.SplitHostPort(address)
		number, _ := strconv.Atoi(port)
		if err != nil || !slices.Contains(w.services[host], int32(number)) {
			w.errorf("%s: %s: no service %s with port %s", who, arg, host, port)
		}
	}
}

// references says what the manifests want and nobody makes.
func references(all []object, readme string) error {
	w := newWorld(all, readme)
	for _, o := range all {
		switch {
		case o.Kind == "Secret":
			w.errorf("Secret/%s is among the manifests: they are referred to, and made elsewhere", o.Name)
		case o.Kind != "Namespace" && o.Namespace != "waybill":
			w.errorf("%s/%s is in namespace %q", o.Kind, o.Name, o.Namespace)
		}
		if image := regexp.MustCompile(`(?m)^ *imageName: (.*)$`).FindSubmatch(o.text); image != nil && !regexp.MustCompile(`:\d+\.\d+$`).Match(image[1]) {
			w.errorf("%s/%s: image %s has no exact tag", o.Kind, o.Name, image[1])
		}
	}
	for _, p := range w.workloads {
		w.checkPod(p)
		for _, c := range p.pod.Spec.Containers {
			if strings.Contains(c.Image, "waybill-fleet") {
				if err := flags(c.Args); err != nil {
					w.errorf("%s: %w", p.name, err)
				}
			}
		}
	}
	w.checkSelectors(all)
	return errors.Join(w.errs...)
}

func clusterReadme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cluster, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestKubernetesReferences: what a manifest refers to is there, is what an operator makes, or stands in README.md; waybill-fleet takes its flags.
func TestKubernetesReferences(t *testing.T) {
	documents := build(t, "example")
	if err := references(objects(t, documents), clusterReadme(t)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"a flag that is not":                 {"--share=fleet", "--shares=fleet"},
		"a flag of another command":          {"--replication=3", "--slots=3"},
		"a flag's value of another kind":     {"--every=1m", "--every=soon"},
		"a Secret that nobody makes":         {"secretName: waybill-page-tls", "secretName: waybill-pages-tls"},
		"a key that it has not":              {"key: cookie", "key: cookies"},
		"a file that is not mounted":         {"--ca=/etc/waybill/kafka/ca.crt", "--ca=/etc/waybill/kafka/ca.pem"},
		"a ConfigMap's key that it has not":  {"key: vehicles-ca.pem", "key: vehicle-ca.pem"},
		"a mount without a volume":           {"- mountPath: /etc/waybill/db\n          name: db\n", "- mountPath: /etc/waybill/db\n          name: dbs\n"},
		"a service that is not":              {"ssl://emqx-stores:8884", "ssl://emqx:8884"},
		"a port that the service has not":    {"kafka-kafka-bootstrap:9093", "kafka-kafka-bootstrap:9092"},
		"a database that is not":             {"@waybill-db-rw:5432", "@waybill-rw:5432"},
		"a probe of a port that is not":      {"path: /ready\n            port: metrics", "path: /ready\n            port: metric"},
		"a service's target that is not":     {"targetPort: stores", "targetPort: store"},
		"a service of no pods":               {"app.kubernetes.io/component: serve\n    app.kubernetes.io/name: waybill-fleet\n", "app.kubernetes.io/component: serves\n    app.kubernetes.io/name: waybill-fleet\n"},
		"a policy for a port that is not":    {"- port: vehicles\n", "- port: vehicle\n"},
		"an image without an exact tag":      {"emqx/emqx:5.8.9", "emqx/emqx:latest"},
		"a database without an exact tag":    {"postgresql:15.14", "postgresql:15"},
		"monitoring of a port that is not":   {"port: metrics\n    scrapeTimeout", "port: metric\n    scrapeTimeout"},
		"a pod that may run as root":         {"runAsNonRoot: true", "runAsNonRoot: false"},
		"a file that EMQX has not":           {"certs/fleet-ca.pem", "certs/fleets-ca.pem"},
		"a port that EMQX has not":           {"0.0.0.0:8884", "0.0.0.0:8885"},
		"EMQX's nodes at no service":         {"emqx-nodes.waybill.svc", "emqx-node.waybill.svc"},
		"what lies in the default namespace": {"namespace: waybill\n", "namespace: default\n"},
	} {
		changed := false
		broken := slices.Clone(documents)
		for i := range broken {
			if broken[i] = bytes.Replace(broken[i], []byte(change[0]), []byte(change[1]), 1); !bytes.Equal(broken[i], documents[i]) {
				changed = true
				break
			}
		}
		if err := references(objects(t, broken), clusterReadme(t)); err == nil || !changed {
			t.Errorf("%s is not noticed (changed: %v)", name, changed)
		}
	}
}
