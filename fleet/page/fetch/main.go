// Command fetch brings the pages' parts that are others' work: each line of their assets.txt as an archive from the package registry that
// this machine's npm is set up for, compared with its SHA-512, and of it the files that the line names. What is there already is
// left alone. Run it in the repository's root, as `make assets` does.
//
// With -try, as `make build` and `make demo` have it, what cannot be had is a word and no failure: the page then says what it lacks.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// folders are those of the pages: the fleet's and the agent's.
var folders = []string{"fleet/page", "internal/local/page"}

const fetchNPM = "test/deps/fetch.sh" // where a machine has no npm of its own

func main() {
	try := flag.Bool("try", false, "leave what cannot be had, with a word; bring no npm")
	flag.Parse()
	err := run(*try)
	switch {
	case err != nil && *try:
		fmt.Fprintf(os.Stderr, "The pages go without maps and charts: %v. `make assets` brings them.\n", err)
	case err != nil:
		fmt.Fprintln(os.Stderr, "make assets:", err)
		os.Exit(1)
	}
}

// errNoNPM: this machine has none, and none was to be brought.
var errNoNPM = errors.New("this machine has no npm")

func run(try bool) error {
	for _, folder := range folders {
		if err := bring(folder, try); err != nil {
			return fmt.Errorf("%s: %w", folder, err)
		}
	}
	return nil
}

// bring fetches what one page lacks.
func bring(folder string, try bool) error {
	text, err := os.ReadFile(filepath.Join(folder, "assets.txt"))
	if err != nil {
		return fmt.Errorf("%w; run it from the repository's root", err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		if len(words) < 5 {
			return fmt.Errorf("assets.txt: %q: want name, version, integrity, licence, files", line)
		}
		if err := part(folder, words, strings.TrimSpace(line), try); err != nil {
			return fmt.Errorf("%s %s: %w", words[0], words[1], err)
		}
	}
	return nil
}

// part fetches one package unless its folder says that it is there.
func part(folder string, words []string, stamp string, try bool) error {
	name, version, integrity, files := words[0], words[1], words[2], words[4:]
	into := filepath.Join(folder, "static", "vendor", name)
	if have, err := os.ReadFile(filepath.Join(into, "PART")); err == nil && string(have) == stamp+"\n" {
		return nil
	}
	archive, err := pack(name+"@"+version, try)
	if err != nil {
		return err
	}
	sum := sha512.Sum512(archive)
	if got := "sha512-" + base64.StdEncoding.EncodeToString(sum[:]); got != integrity {
		return fmt.Errorf("the archive is not the one that was chosen: it has %s, assets.txt says %s", got, integrity)
	}
	if err := errors.Join(os.RemoveAll(into), os.MkdirAll(into, 0o755)); err != nil {
		return err
	}
	if err := extract(archive, files, into); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(into, "PART"), []byte(stamp+"\n"), 0o644)
}

// pack asks npm for an archive.
func pack(spec string, try bool) ([]byte, error) {
	npm, err := exec.LookPath("npm")
	if err != nil && try {
		return nil, errNoNPM
	}
	if err != nil {
		cmd := exec.Command(fetchNPM, "node")
		cmd.Stderr = os.Stderr
		where, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("there is no npm, and %s cannot bring one: %w", fetchNPM, err)
		}
		npm = filepath.Join(strings.TrimSpace(string(where)), "npm")
	}
	dir, err := os.MkdirTemp("", "waybill-assets-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command(npm, "pack", "--silent", "--pack-destination", dir, spec)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("npm pack: %w; is the package registry reached?", err)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return nil, fmt.Errorf("npm pack left %d archives", len(archives))
	}
	return os.ReadFile(archives[0])
}

// extract writes the wanted files, without the folders that they are in.
func extract(archive []byte, files []string, into string) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	wanted := slices.Clone(files)
	for entries := tar.NewReader(unzipped); len(wanted) > 0; {
		h, err := entries.Next()
		if err == io.EOF {
			return fmt.Errorf("%v: not in the archive", wanted)
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(h.Name, "package/")
		i := slices.Index(wanted, name)
		if i < 0 {
			continue
		}
		content, err := io.ReadAll(entries)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(into, path.Base(name)), content, 0o644); err != nil {
			return err
		}
		wanted = slices.Delete(wanted, i, i+1)
	}
	return nil
}
