// Command release makes what people install: Debian packages and archives for each processor, a bill of materials, the
// licences of all that is linked, and checksums. The same sources and the same Go give the same bytes, wherever and
// whenever it runs: every time in them is the commit's.
//
// usage: release -version V -commit C -built RFC3339 [-out DIR] [-arch amd64,arm64,arm] [-fleet amd64,arm64]
//
// The packages are written here (deb.go) and not by nfpm: a .deb is two archives in a third, and nfpm would bring more
// than two hundred packages of other people's into what is installed in every vehicle.
package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := release{}
	var vehicles, fleets string
	flag.StringVar(&r.version, "version", "", "what git describe says")
	flag.StringVar(&r.commit, "commit", "unknown", "the commit's hash")
	built := flag.String("built", "", "the commit's time, RFC 3339")
	flag.StringVar(&r.out, "out", "dist/release", "folder to write to; emptied first")
	flag.StringVar(&vehicles, "arch", "amd64,arm64,arm", "processors of vehicles, as GOARCH names them")
	flag.StringVar(&fleets, "fleet", "amd64,arm64", "processors of the cloud side; may be empty")
	flag.Parse()
	err := errors.New("usage: release -version V -commit C -built RFC3339 [-out DIR] [-arch LIST] [-fleet LIST]; make release knows them")
	if r.version != "" && *built != "" && flag.NArg() == 0 {
		if r.built, err = time.Parse(time.RFC3339, *built); err == nil {
			err = r.run(ctx, list(vehicles), list(fleets))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
}

// release is one version of everything. It reads the sources in the working directory, the repository's root.
type release struct {
	version, commit string
	built           time.Time
	out             string
}

// debArch names Debian's architecture for each GOARCH that is released.
var debArch = map[string]string{"amd64": "amd64", "arm64": "arm64", "arm": "armhf"}

// run makes everything for the vehicles' and the fleets' processors.
func (r *release) run(ctx context.Context, vehicles, fleets []string) error {
	version, err := debVersion(r.version, r.built)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	bin := filepath.Join(r.out, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	texts, err := r.texts(ctx, bin)
	if err != nil {
		return err
	}
	var all []*program
	for _, arch := range vehicles {
		programs, err := r.vehicle(ctx, bin, version, arch, texts)
		if err != nil {
			return err
		}
		all = append(all, programs...)
	}
	for _, arch := range fleets {
		fleet, err := r.fleet(ctx, bin, version, arch)
		if err != nil {
			return err
		}
		all = append(all, fleet)
	}
	if err := r.write("waybill-"+version+".cdx.json", func(w io.Writer) error { return writeSBOM(w, version, r, all) }); err != nil {
		return err
	}
	text, err := notices(ctx, all...)
	if err != nil {
		return err
	}
	if err := r.write("LICENCES.txt", func(w io.Writer) error { _, err := w.Write(text); return err }); err != nil {
		return err
	}
	if err := os.RemoveAll(bin); err != nil {
		return err
	}
	return checksums(r.out)
}

// vehicle makes the package and the archive of a vehicle's processor.
func (r *release) vehicle(ctx context.Context, bin, version, arch string, texts []file) ([]*program, error) {
	if debArch[arch] == "" {
		return nil, fmt.Errorf("no GOARCH %q: want amd64, arm64 or arm", arch)
	}
	agent, err := r.build(ctx, bin, "agent", arch)
	if err != nil {
		return nil, err
	}
	launcher, err := r.build(ctx, bin, "launcher", arch)
	if err != nil {
		return nil, err
	}
	notices, err := notices(ctx, agent, launcher)
	if err != nil {
		return nil, err
	}
	files, err := vehicleFiles(agent.path, launcher.path, texts, notices)
	if err != nil {
		return nil, err
	}
	p := pkg{Name: "waybill-agent", Version: version, Arch: debArch[arch], Time: r.built, Files: files}
	if err := r.write(fmt.Sprintf("waybill-agent_%s_%s.deb", version, p.Arch), p.writeDeb); err != nil {
		return nil, err
	}
	top := fmt.Sprintf("waybill-agent-%s-linux-%s", version, p.Arch)
	return []*program{agent, launcher}, r.write(top+".tar.gz", func(w io.Writer) error { return writeTarGz(w, top+"/", files, r.built) })
}

// fleet makes the cloud side's archive.
func (r *release) fleet(ctx context.Context, bin, version, arch string) (*program, error) {
	fleet, err := r.build(ctx, bin, "fleet", arch)
	if err != nil {
		return nil, err
	}
	notices, err := notices(ctx, fleet)
	if err != nil {
		return nil, err
	}
	files, err := fleetFiles(fleet.path, notices)
	if err != nil {
		return nil, err
	}
	top := fmt.Sprintf("waybill-fleet-%s-linux-%s", version, arch)
	return fleet, r.write(top+".tar.gz", func(w io.Writer) error { return writeTarGz(w, top+"/", files, r.built) })
}

// write makes a file of the release.
func (r *release) write(name string, content func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(r.out, name))
	if err != nil {
		return err
	}
	return cmp.Or(content(f), f.Close())
}

// program is a binary that was built.
type program struct {
	name, arch, path string
	sum              [32]byte // SHA-256
}

// build links one of cmd/ for a GOARCH, static and without anything of this machine in it.
func (r *release) build(ctx context.Context, dir, name, arch string) (*program, error) {
	const identity = "github.com/waybill-telematics/waybill/firmware."
	p := &program{name: "waybill-" + name, arch: arch, path: filepath.Join(dir, "waybill-"+name+"-"+arch)}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags",
		fmt.Sprintf("-s -w -buildid= -X %[1]sversion=%s -X %[1]scommit=%s -X %[1]sbuilt=%s", identity, r.version, r.commit, r.built.Format(time.RFC3339)),
		"-o", p.path, "./cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOARM=7", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOFLAGS=-mod=readonly")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("building %s for %s: %w", p.name, arch, err)
	}
	data, err := os.ReadFile(p.path)
	p.sum = sha256.Sum256(data)
	return p, err
}

// texts are the shells' completions and the manual pages, as the agent itself writes them.
func (r *release) texts(ctx context.Context, dir string) (files []file, err error) {
	agent, err := r.build(ctx, dir, "agent", runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	for shell, path := range map[string]string{
		"bash": "usr/share/bash-completion/completions/waybill-agent",
		"zsh":  "usr/share/zsh/vendor-completions/_waybill-agent",
		"fish": "usr/share/fish/vendor_completions.d/waybill-agent.fish",
	} {
		out, err := exec.CommandContext(ctx, agent.path, "completion", shell).Output()
		if err != nil {
			return nil, fmt.Errorf("completion for %s: %w", shell, err)
		}
		files = append(files, file{path: path, mode: 0o644, data: out})
	}
	manuals := filepath.Join(dir, "man")
	if out, err := exec.CommandContext(ctx, agent.path, "man", manuals).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("manual pages: %w: %s", err, out)
	}
	entries, err := os.ReadDir(manuals)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(manuals, e.Name()))
		if err != nil {
			return nil, err
		}
		var packed bytes.Buffer
		z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err != nil {
			return nil, err
		}
		if _, err := z.Write(data); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		files = append(files, file{path: "usr/share/man/man1/" + e.Name() + ".gz", mode: 0o644, data: packed.Bytes()})
	}
	return files, nil
}

// checksums writes SHA256SUMS, which sha256sum -c reads.
func checksums(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var lines []string
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(data), e.Name()))
	}
	slices.Sort(lines)
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(strings.Join(lines, "")), 0o644)
}
