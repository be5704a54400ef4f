package main

import (
	"fmt"
	"regexp"
	"time"
)

var described = regexp.MustCompile(`^(?:v?(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.]+?))??(?:-(\d+)-g([0-9a-f]+))?|([0-9a-f]{7,40}))(-dirty)?$`)

// debVersion turns what `git describe --tags --always --dirty` says into a version that Debian's tools order right: a release
// candidate before its release, commits after a tag behind it, and what has no tag yet before every release, by its time.
func debVersion(describe string, built time.Time) (string, error) {
	m := described.FindStringSubmatch(describe)
	if m == nil {
		return "", fmt.Errorf("version %q: want what git describe --tags --always says, such as v1.2.3, v1.2.3-4-gabcdef0 or abcdef0", describe)
	}
	version := m[1]
	if version == "" {
		version = "0.0.0+" + built.UTC().Format("20060102T150405Z") + ".g" + m[5]
	}
	if m[2] != "" {
		version += "~" + m[2]
	}
	if m[3] != "" {
		version += "+" + m[3] + ".g" + m[4]
	}
	if m[6] != "" {
		version += "+dirty"
	}
	return version, nil
}
