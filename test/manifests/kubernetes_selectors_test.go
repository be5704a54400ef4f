package manifests

import (
	"slices"
	"strings"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// selected gives the pods that a selector chooses.
func (w *world) selected(who string, selector labels.Selector) (pods []workload) {
	for _, p := range w.workloads {
		if selector.Matches(labels.Set(p.pod.Labels)) {
			pods = append(pods, p)
		}
	}
	if len(pods) == 0 {
		w.errorf("%s selects no pod", who)
	}
	return pods
}

// checkSelectors: services, budgets, policies and the monitoring choose what is there, and ports that it has.
func (w *world) checkSelectors(all []object) {
	services := of[core.Service](all, "Service")
	for _, s := range services {
		for _, p := range w.selected("Service/"+s.Name, labels.SelectorFromSet(s.Spec.Selector)) {
			for _, port := range s.Spec.Ports {
				if !opens(p.pod, port.TargetPort) {
					w.errorf("Service/%s: %s has no port %s", s.Name, p.name, port.TargetPort.String())
				}
			}
		}
	}
	chosen := func(who string, s *meta.LabelSelector) []workload {
		selector, err := meta.LabelSelectorAsSelector(s)
		if err != nil || strings.Contains(selector.String(), "cnpg.io/") { // pods of CloudNativePG's own
			return nil
		}
		return w.selected(who, selector)
	}
	for _, s := range of[apps.StatefulSet](all, "StatefulSet") {
		chosen("StatefulSet/"+s.Name, s.Spec.Selector)
		if w.services[s.Spec.ServiceName] == nil {
			w.errorf("StatefulSet/%s: no service %s", s.Name, s.Spec.ServiceName)
		}
	}
	for _, b := range of[policy.PodDisruptionBudget](all, "PodDisruptionBudget") {
		chosen("PodDisruptionBudget/"+b.Name, b.Spec.Selector)
	}
	for _, n := range of[networking.NetworkPolicy](all, "NetworkPolicy") {
		pods := chosen("NetworkPolicy/"+n.Name, &n.Spec.PodSelector)
		for _, rule := range n.Spec.Ingress {
			for _, port := range rule.Ports {
				if len(pods) > 0 && !slices.ContainsFunc(pods, func(p workload) bool { return opens(p.pod, *port.Port) }) {
					w.errorf("NetworkPolicy/%s: no pod has port %s", n.Name, port.Port.String())
				}
			}
		}
	}
	type monitor struct {
		Metadata struct{ Name string }
		Spec     struct {
			Selector  meta.LabelSelector
			Endpoints []struct{ Port string }
		}
	}
	for _, m := range of[monitor](all, "ServiceMonitor") {
		selector, err := meta.LabelSelectorAsSelector(&m.Spec.Selector)
		found := err == nil && slices.ContainsFunc(services, func(s core.Service) bool {
			return selector.Matches(labels.Set(s.Labels)) && slices.ContainsFunc(s.Spec.Ports, func(p core.ServicePort) bool { return p.Name == m.Spec.Endpoints[0].Port })
		})
		if !found {
			w.errorf("ServiceMonitor/%s: no service with such a port", m.Metadata.Name)
		}
	}
}
