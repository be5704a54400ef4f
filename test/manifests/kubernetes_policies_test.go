package manifests

import (
	"slices"
	"testing"

	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// place is a pod as a NetworkPolicy sees it.
type place struct {
	namespace string // other than "waybill" if it is elsewhere
	labels    labels.Set
}

// network answers as a cluster's network does that keeps the NetworkPolicies of the manifests.
type network struct {
	policies []networking.NetworkPolicy
	pods     []workload
}

// lets says whether a TCP connection is let out and in.
func (n network) lets(from, to place, port int32) bool {
	return n.way(from, to, port, networking.PolicyTypeEgress) && n.way(to, from, port, networking.PolicyTypeIngress)
}

// way is one side's word: with no policy for it everything goes, else what one of them allows. The port is of the one that listens.
func (n network) way(self, other place, port int32, direction networking.PolicyType) bool {
	applies, allowed := false, false
	for _, p := range n.policies {
		if self.namespace != "waybill" || !matches(&p.Spec.PodSelector, self.labels) || !slices.Contains(p.Spec.PolicyTypes, direction) {
			continue
		}
		applies = true
		if direction == networking.PolicyTypeIngress {
			for _, rule := range p.Spec.Ingress {
				allowed = allowed || peers(rule.From, other) && n.ports(rule.Ports, self, port)
			}
			continue
		}
		for _, rule := range p.Spec.Egress {
			allowed = allowed || peers(rule.To, other) && n.ports(rule.Ports, other, port)
		}
	}
	return allowed || !applies
}

func matches(selector *meta.LabelSelector, set labels.Set) bool {
	s, err := meta.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(set)
}

func peers(list []networking.NetworkPolicyPeer, other place) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(p networking.NetworkPolicyPeer) bool {
		if p.IPBlock != nil || p.NamespaceSelector == nil && other.namespace != "waybill" {
			return false
		}
		if p.NamespaceSelector != nil && !matches(p.NamespaceSelector, labels.Set{"kubernetes.io/metadata.name": other.namespace}) {
			return false
		}
		return p.PodSelector == nil || matches(p.PodSelector, other.labels)
	})
}

// ports resolves names by the pods of whom is asked.
func (n network) ports(list []networking.NetworkPolicyPort, asked place, port int32) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(p networking.NetworkPolicyPort) bool {
		if p.Port == nil || p.Port.Type == intstr.Int {
			return p.Port == nil || p.Port.IntVal == port
		}
		for _, w := range n.pods {
			if !labels.SelectorFromSet(w.pod.Labels).Matches(asked.labels) {
				continue
			}
			for _, c := range w.pod.Spec.Containers {
				for _, open := range c.Ports {
					if open.Name == p.Port.StrVal && open.ContainerPort == port {
						return true
					}
				}
			}
		}
		return false
	})
}

// TestKubernetesPolicies: who has to reach whom does, and nobody else. What Strimzi's own policies let in at Kafka is not ours to ask.
func TestKubernetesPolicies(t *testing.T) {
	all := objects(t, build(t, "example"))
	n := network{of[networking.NetworkPolicy](all, "NetworkPolicy"), newWorld(all, clusterReadme(t)).workloads}
	var (
		fleet    = place{"waybill", labels.Set{"app.kubernetes.io/name": "waybill-fleet", "app.kubernetes.io/component": "serve"}}
		topics   = place{"waybill", labels.Set{"app.kubernetes.io/name": "waybill-fleet", "app.kubernetes.io/component": "topics"}}
		emqx     = place{"waybill", labels.Set{"app.kubernetes.io/name": "emqx"}}
		kafka    = place{"waybill", labels.Set{"strimzi.io/cluster": "kafka"}}
		database = place{"waybill", labels.Set{"cnpg.io/cluster": "waybill-db"}}
		operator = place{"cnpg-system", labels.Set{"app.kubernetes.io/name": "cloudnative-pg"}}
		scraper  = place{"monitoring", labels.Set{"app.kubernetes.io/name": "prometheus"}}
		names    = place{"kube-system", labels.Set{"k8s-app": "kube-dns"}}
		outside  = place{"elsewhere", labels.Set{}}
		stranger = place{"waybill", labels.Set{"app.kubernetes.io/name": "stranger"}}
	)
	for _, c := range []struct {
		what     string
		from, to place
		port     int32
		good     bool
	}{
		{"vehicles", outside, emqx, 8883, true},
		{"the stores' door", fleet, emqx, 8884, true},
		{"EMQX's nodes", emqx, emqx, 4370, true},
		{"EMQX's calls", emqx, emqx, 5370, true},
		{"fleet to database", fleet, database, 5432, true},
		{"a standby to its primary", database, database, 5432, true},
		// Without the API server a primary that no other instance answers takes itself for cut off, and is stopped.
		{"an instance to another's manager", database, database, 8000, true},
		{"the operator", operator, database, 8000, true},
		{"the operator's SQL", operator, database, 5432, true},
		{"the page", outside, fleet, 8443, true},
		{"the metrics", scraper, fleet, 9464, true},
		{"names", fleet, names, 53, true},
		{"a stranger at the stores' door", stranger, emqx, 8884, false},
		{"somebody else at the stores' door", outside, emqx, 8884, false},
		{"somebody else among EMQX's nodes", outside, emqx, 4370, false},
		{"a stranger at the database", stranger, database, 5432, false},
		{"EMQX at the database", emqx, database, 5432, false},
		{"somebody else's metrics", outside, fleet, 9464, false},
		{"a stranger at another", stranger, stranger, 80, false},
		{"the fleet elsewhere", fleet, outside, 443, false},
	} {
		if got := n.lets(c.from, c.to, c.port); got != c.good {
			t.Errorf("%s, port %d: %v, want %v", c.what, c.port, got, c.good)
		}
	}
	for _, from := range []place{fleet, topics} {
		if !n.way(from, kafka, 9093, networking.PolicyTypeEgress) {
			t.Errorf("%v is not let out to Kafka", from.labels)
		}
	}
}
