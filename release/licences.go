package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

// licences names by SPDX id what each module may be used under that is linked into a program that is released. A person
// reads a licence before a module comes in: one that is not here fails the release. docs/DEPENDENCIES.md says what each is for.
var licences = map[string]string{
	"github.com/beorn7/perks":                           "MIT",
	"github.com/cespare/xxhash/v2":                      "MIT",
	"github.com/coreos/go-systemd/v22":                  "Apache-2.0",
	"github.com/dustin/go-humanize":                     "MIT",
	"github.com/eclipse/paho.mqtt.golang":               "EPL-2.0 OR BSD-3-Clause",
	"github.com/godbus/dbus/v5":                         "BSD-2-Clause",
	"github.com/google/go-containerregistry":            "Apache-2.0",
	"github.com/google/go-tpm":                          "Apache-2.0",
	"github.com/google/uuid":                            "BSD-3-Clause",
	"github.com/gorilla/websocket":                      "BSD-2-Clause",
	"github.com/jackc/pgpassfile":                       "MIT",
	"github.com/jackc/pgservicefile":                    "MIT",
	"github.com/jackc/pgx/v5":                           "MIT",
	"github.com/jackc/puddle/v2":                        "MIT",
	"github.com/josharian/native":                       "MIT",
	"github.com/klauspost/compress":                     "BSD-3-Clause AND Apache-2.0 AND MIT",
	"github.com/mdlayher/netlink":                       "MIT",
	"github.com/mdlayher/socket":                        "MIT",
	"github.com/mochi-mqtt/server/v2":                   "MIT",
	"github.com/munnerz/goautoneg":                      "BSD-3-Clause",
	"github.com/opencontainers/go-digest":               "Apache-2.0",
	"github.com/pierrec/lz4/v4":                         "BSD-3-Clause",
	"github.com/prometheus/client_golang":               "Apache-2.0",
	"github.com/prometheus/client_model":                "Apache-2.0",
	"github.com/prometheus/common":                      "Apache-2.0",
	"github.com/prometheus/procfs":                      "Apache-2.0",
	"github.com/remyoudompheng/bigfft":                  "BSD-3-Clause",
	"github.com/rs/xid":                                 "MIT",
	"github.com/secure-systems-lab/go-securesystemslib": "MIT",
	"github.com/sigstore/protobuf-specs":                "Apache-2.0",
	"github.com/sigstore/sigstore":                      "Apache-2.0",
	"github.com/spf13/cobra":                            "Apache-2.0",
	"github.com/spf13/pflag":                            "BSD-3-Clause",
	"github.com/tarm/serial":                            "BSD-3-Clause",
	"github.com/theupdateframework/go-tuf/v2":           "Apache-2.0",
	"github.com/twmb/franz-go":                          "BSD-3-Clause",
	"github.com/twmb/franz-go/pkg/kadm":                 "BSD-3-Clause",
	"github.com/twmb/franz-go/pkg/kmsg":                 "BSD-3-Clause",
	"github.com/twmb/franz-go/pkg/sr":                   "BSD-3-Clause",
	"github.com/xdg-go/scram":                           "Apache-2.0",
	"github.com/xdg-go/stringprep":                      "Apache-2.0",
	"github.com/youmark/pkcs8":                          "MIT",
	"go.einride.tech/can":                               "MIT",
	"go.etcd.io/bbolt":                                  "MIT",
	"go.mongodb.org/mongo-driver/v2":                    "Apache-2.0",
	"go.yaml.in/yaml/v3":                                "MIT AND Apache-2.0",
	"golang.org/x/crypto":                               "BSD-3-Clause",
	"golang.org/x/net":                                  "BSD-3-Clause",
	"golang.org/x/sync":                                 "BSD-3-Clause",
	"golang.org/x/sys":                                  "BSD-3-Clause",
	"golang.org/x/term":                                 "BSD-3-Clause",
	"golang.org/x/text":                                 "BSD-3-Clause",
	"google.golang.org/genproto/googleapis/api":         "Apache-2.0",
	"google.golang.org/protobuf":                        "BSD-3-Clause",
	"gopkg.in/yaml.v3":                                  "MIT AND Apache-2.0",
	"modernc.org/libc":                                  "BSD-3-Clause AND MIT",
	"modernc.org/mathutil":                              "BSD-3-Clause",
	"modernc.org/memory":                                "BSD-3-Clause",
	"modernc.org/sqlite":                                "BSD-3-Clause AND blessing",
	"software.sslmate.com/src/go-pkcs12":                "BSD-3-Clause",
}

// phrases stand in the texts of licences, after white space is made one space.
var phrases = map[string]string{
	"Apache-2.0":   "Apache License",
	"MIT":          "Permission is hereby granted, free of charge",
	"BSD-2-Clause": "Redistribution and use in source and binary forms",
	"BSD-3-Clause": "either the name",
	"EPL-2.0":      "Eclipse Public License",
	"blessing":     "SQLite Is Public Domain",
}

// linked are the modules of others in a program, as the program itself says.
func (p *program) linked() ([]*debug.Module, error) {
	info, err := buildinfo.ReadFile(p.path)
	if err != nil {
		return nil, err
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			return nil, fmt.Errorf("%s links %s in place of %s: release what go.mod names", p.name, m.Replace.Path, m.Path)
		}
	}
	return info.Deps, nil
}

// legal are files that have to come along.
var legal = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|third-party-notices|edl-v10|epl-v20)([-.].*)?$`)

// notices is one text: our licence, and of each module that the programs link its name, version, licence and legal files.
func notices(ctx context.Context, programs ...*program) ([]byte, error) {
	modules := map[string]*debug.Module{}
	for _, p := range programs {
		deps, err := p.linked()
		if err != nil {
			return nil, err
		}
		for _, m := range deps {
			modules[m.Path] = m
		}
	}
	var out bytes.Buffer
	out.WriteString("Waybill\nhttps://github.com/waybill-telematics/waybill\nLicence: Apache-2.0\n\n")
	if err := appendTexts(&out, ".", "Apache-2.0"); err != nil {
		return nil, err
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, err
	}
	out.WriteString("\n\nGo, its runtime and standard library\nhttps://go.dev\nLicence: BSD-3-Clause\n\n")
	if err := appendTexts(&out, strings.TrimSpace(string(root)), "BSD-3-Clause"); err != nil {
		return nil, err
	}
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		licence := licences[path]
		if licence == "" {
			return nil, fmt.Errorf("%s is linked and not in release/licences.go: read its licence, and add it there and to docs/DEPENDENCIES.md", path)
		}
		fmt.Fprintf(&out, "\n\n%s %s\nLicence: %s\n\n", path, modules[path].Version, licence)
		dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
		if err != nil {
			return nil, fmt.Errorf("go list -m %s: %w", path, err)
		}
		if err := appendTexts(&out, strings.TrimSpace(string(dir)), licence); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return out.Bytes(), nil
}

// appendTexts adds the legal files of a folder, which have to be what the SPDX expression says.
func appendTexts(out *bytes.Buffer, dir, expression string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var all strings.Builder
	for _, e := range entries {
		if e.IsDir() || !legal.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "---- %s ----\n\n%s\n", e.Name(), strings.TrimRight(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n"))
		all.Write(text)
	}
	if all.Len() == 0 {
		return errors.New("no licence file")
	}
	words := strings.Join(strings.Fields(all.String()), " ")
	for _, id := range strings.FieldsFunc(strings.NewReplacer(" AND ", "|", " OR ", "|").Replace(expression), func(r rune) bool { return r == '|' }) {
		if !strings.Contains(words, phrases[id]) || phrases[id] == "" {
			return fmt.Errorf("its files do not say %q: read them again", id)
		}
	}
	return nil
}
