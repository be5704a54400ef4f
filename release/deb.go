package main

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// pkg is a Debian package (deb(5), Debian Policy chapters 3 and 5).
type pkg struct {
	Name, Version, Arch string // Arch in Debian's words
	Time                time.Time
	Files               []file
}

// writeDeb writes the package: an ar archive of the format's version, the control files and the content.
func (p pkg) writeDeb(w io.Writer) error {
	control, err := p.control()
	if err != nil {
		return err
	}
	var packed [2]bytes.Buffer
	if err := writeTarGz(&packed[0], "./", control, p.Time); err != nil {
		return err
	}
	if err := writeTarGz(&packed[1], "./", p.Files, p.Time); err != nil {
		return err
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, member := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", packed[0].Bytes()}, {"data.tar.gz", packed[1].Bytes()}} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, p.Time.Unix(), 0, 0, "100644", len(member.data))
		out.Write(member.data)
		if out.Len()%2 == 1 {
			out.WriteByte('\n')
		}
	}
	_, err = w.Write(out.Bytes())
	return err
}

// control makes the files that dpkg itself reads.
func (p pkg) control() ([]file, error) {
	var size int
	var sums, configs strings.Builder
	for _, f := range slices.SortedFunc(slices.Values(p.Files), func(a, b file) int { return strings.Compare(a.path, b.path) }) {
		size += (len(f.data) + 1023) / 1024
		if f.config {
			fmt.Fprintf(&configs, "/%s\n", f.path)
			continue
		}
		fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(f.data), f.path) // dpkg -V knows no other sum
	}
	files := []file{
		{path: "control", mode: 0o644, data: fmt.Appendf(nil, `Package: %s
Version: %s
Architecture: %s
Maintainer: The Waybill maintainers <maintainers@waybill-telematics.example>
Installed-Size: %d
Depends: adduser, passwd
Recommends: ca-certificates, iproute2, tzdata
Section: net
Priority: optional
Homepage: https://github.com/waybill-telematics/waybill
Description: telematics agent of a car
 It reads CAN buses and GPS receivers, keeps every sample through dead zones
 and power cuts, and delivers it over MQTT, exactly once. It is updated from
 afar: what an update installed stays when this package is upgraded.
`, p.Name, p.Version, p.Arch, size)},
		{path: "md5sums", mode: 0o644, data: []byte(sums.String())},
		{path: "conffiles", mode: 0o644, data: []byte(configs.String())},
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		data, err := os.ReadFile("deploy/debian/" + script)
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: script, mode: 0o755, data: data})
	}
	return files, nil
}
