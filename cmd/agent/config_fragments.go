package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fragmentsDir stands beside the configuration file.
const fragmentsDir = "conf.d"

// maxFragments bounds the files in it.
const maxFragments = 100

// addFragments lays the files of conf.d over the configuration, in the order of their names' bytes. Groups of keys are
// merged key by key; everything else, lists too, takes the place of what was there. A key without a value (key: ~) has its
// default again.
func (d *document) addFragments() error {
	dir := filepath.Join(filepath.Dir(d.file), fragmentsDir)
	files, err := fragments(dir)
	if err != nil {
		return err
	}
	d.origin = map[*yaml.Node]string{}
	for _, file := range files {
		f, err := readFile(file)
		if err != nil {
			return err
		}
		if f.root.Kind == 0 || f.root.Content[0].Tag == "!!null" {
			continue
		}
		d.note(f.root, file)
		d.root = &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{merge(d.root.Content[0], f.root.Content[0])}}
	}
	if len(files) == 0 {
		return nil
	}
	d.config = config{}
	if err := d.root.Decode(&d.config); err != nil { // each file could be decoded, so this is of both together
		return &problems{d.file, []problem{{Line: 1, Text: fmt.Sprintf("together with %s: %v", dir, err)}}}
	}
	return nil
}

// fragments lists the files of a folder that may be missing.
func fragments(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w; make it readable, or remove it", err)
	}
	var files []string
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		switch extension := filepath.Ext(e.Name()); {
		case strings.HasPrefix(e.Name(), "."), e.IsDir():
		case extension == ".yaml":
			files = append(files, file)
		case extension == ".yml":
			return nil, &problems{file, []problem{{Line: 1, Text: "files of another ending than .yaml are not read here; rename it"}}}
		}
	}
	if len(files) > maxFragments {
		text := fmt.Sprintf("there are more than %d files here", maxFragments)
		return nil, &problems{files[maxFragments], []problem{{Line: 1, Text: text}}}
	}
	return files, nil
}

// note remembers which file the nodes are of.
func (d *document) note(n *yaml.Node, file string) {
	d.origin[n] = file
	for _, child := range n.Content {
		d.note(child, file)
	}
}

// merge lays one value over another and changes neither.
func merge(under, over *yaml.Node) *yaml.Node {
	under, over = resolve(under), resolve(over)
	if under.Kind != yaml.MappingNode || over.Kind != yaml.MappingNode {
		return over
	}
	both := &yaml.Node{Kind: yaml.MappingNode, Tag: under.Tag, Line: under.Line, Content: slices.Clone(under.Content)}
	for i := 0; i+1 < len(over.Content); i += 2 {
		key, value := over.Content[i], over.Content[i+1]
		known := false
		for j := 0; j+1 < len(under.Content); j += 2 {
			if known = under.Content[j].Value == key.Value; known {
				if both.Content[j+1] = merge(under.Content[j+1], value); both.Content[j+1] == resolve(value) {
					both.Content[j] = key // its line counts
				}
				break
			}
		}
		if !known {
			both.Content = append(both.Content, key, value)
		}
	}
	return both
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
