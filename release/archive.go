package main

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// file is one file of a package.
type file struct {
	path   string // from /, without the slash
	mode   int64
	data   []byte
	config bool // the owner's: a newer package does not replace what he changed
}

// writeTar writes files below a folder that ends in a slash, owned by root, in the order of their names, folders first.
func writeTar(w io.Writer, top string, files []file, at time.Time) error {
	out := tar.NewWriter(w)
	header := tar.Header{Uname: "root", Gname: "root", ModTime: at.UTC().Truncate(time.Second), Format: tar.FormatGNU}
	seen := map[string]bool{}
	folder := func(name string) error {
		if name == "/" || seen[name] {
			return nil
		}
		seen[name] = true
		h := header
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, name, 0o755
		return out.WriteHeader(&h)
	}
	if err := folder(top); err != nil {
		return err
	}
	for _, f := range slices.SortedFunc(slices.Values(files), func(a, b file) int { return strings.Compare(a.path, b.path) }) {
		for i, r := range f.path {
			if r == '/' {
				if err := folder(top + f.path[:i+1]); err != nil {
					return err
				}
			}
		}
		h := header
		h.Typeflag, h.Name, h.Mode, h.Size = tar.TypeReg, top+path.Clean(f.path), f.mode, int64(len(f.data))
		if err := out.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := out.Write(f.data); err != nil {
			return err
		}
	}
	return out.Close()
}

// writeTarGz is writeTar, compressed.
func writeTarGz(w io.Writer, top string, files []file, at time.Time) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	return cmp.Or(writeTar(z, top, files, at), z.Close())
}
