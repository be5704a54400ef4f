package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// What is used here of CycloneDX 1.6 (ECMA-424).
type bom struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Licences   []licence  `json:"licenses"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type licence struct {
	Expression string `json:"expression"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// writeSBOM lists what is in each program by what the linker wrote into it.
func writeSBOM(w io.Writer, version string, r *release, programs []*program) error {
	b := bom{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Metadata: metadata{r.built.UTC().Format(time.RFC3339), component{
			Type: "application", Ref: "waybill", Name: "waybill", Version: version, Licences: []licence{{"Apache-2.0"}},
			Properties: []property{{"waybill:commit", r.commit}},
		}},
	}
	top := dependency{Ref: "waybill"}
	seen := map[string]bool{}
	for _, p := range programs {
		modules, err := p.linked()
		if err != nil {
			return err
		}
		ref := p.name + "-" + p.arch
		top.DependsOn = append(top.DependsOn, ref)
		b.Components = append(b.Components, component{
			Type: "application", Ref: ref, Name: p.name, Version: version, Licences: []licence{{"Apache-2.0"}},
			Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", p.sum)}}, Properties: []property{{"waybill:goarch", p.arch}},
		})
		d := dependency{Ref: ref}
		for _, m := range modules {
			purl := "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")
			d.DependsOn = append(d.DependsOn, purl)
			if seen[purl] {
				continue
			}
			seen[purl] = true
			b.Components = append(b.Components, component{
				Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl, Licences: []licence{{licences[m.Path]}},
				Properties: []property{{"waybill:go.sum", m.Sum}},
			})
			b.Dependencies = append(b.Dependencies, dependency{Ref: purl, DependsOn: []string{}})
		}
		b.Dependencies = append(b.Dependencies, d)
	}
	b.Dependencies = append(b.Dependencies, top)
	slices.SortStableFunc(b.Components, func(a, b component) int { return strings.Compare(a.Type+a.Ref, b.Type+b.Ref) })
	slices.SortFunc(b.Dependencies, func(a, b dependency) int { return strings.Compare(a.Ref, b.Ref) })
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(b)
}
