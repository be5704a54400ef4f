// Command checkelf tells of each program file how large it is and for what machine, and fails when one is not static or
// not stripped, or when the one for arm64 is above its limit: a head unit has no other libc than its own, and flash is dear.
//
// usage: checkelf [-max-mib N] FILE…
package main

import (
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"os"
)

func main() {
	limit := flag.Int64("max-mib", 20, "largest size of an arm64 program, in MiB")
	flag.Parse()
	bad := flag.NArg() == 0
	for _, path := range flag.Args() {
		line, err := check(path, *limit<<20)
		if err != nil {
			bad = true
			line += " " + err.Error()
		}
		fmt.Println(line)
	}
	if bad {
		os.Exit(1)
	}
}

// check describes the program at path; the error says what it must not be.
func check(path string, limit int64) (string, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return path, err
	}
	file, err := elf.Open(path)
	if err != nil {
		return path, err
	}
	defer file.Close()
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return path, err
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	line := fmt.Sprintf("%-36s %-9s %5.1f MiB, %s", path, settings["GOARCH"]+settings["GOARM"], float64(stat.Size())/(1<<20), info.GoVersion)

	var problems []error
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			problems = append(problems, fmt.Errorf("has a %v segment: not static", p.Type))
		}
	}
	if file.Section(".symtab") != nil || file.Section(".debug_info") != nil || file.Section(".zdebug_info") != nil {
		problems = append(problems, errors.New("is not stripped"))
	}
	if settings["CGO_ENABLED"] != "0" {
		problems = append(problems, errors.New("was built with cgo"))
	}
	if file.Machine == elf.EM_AARCH64 && stat.Size() > limit {
		problems = append(problems, fmt.Errorf("is above %d MiB", limit>>20))
	}
	return line, errors.Join(problems...)
}
