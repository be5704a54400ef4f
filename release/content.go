package main

import (
	"os"
)

// vehicleFiles is what goes onto a vehicle.
func vehicleFiles(agent, launcher string, texts []file, notices []byte) ([]file, error) {
	files, err := sources(
		source{agent, "usr/lib/waybill/waybill-agent", 0o755, false},
		source{launcher, "usr/lib/waybill/waybill-launcher", 0o755, false},
		source{"deploy/debian/waybill-agent.sh", "usr/bin/waybill-agent", 0o755, false},
		source{"deploy/debian/agent.yaml", "etc/waybill/agent.yaml", 0o640, true},
		source{"deploy/systemd/waybill-agent.service", "usr/lib/systemd/system/waybill-agent.service", 0o644, false},
		source{"deploy/systemd/waybill-can@.service", "usr/lib/systemd/system/waybill-can@.service", 0o644, false},
		source{"deploy/systemd/60-waybill.rules", "usr/lib/udev/rules.d/60-waybill.rules", 0o644, false},
		source{"examples/agent.yaml", "usr/share/doc/waybill-agent/examples/agent.yaml", 0o644, false},
		source{"CHANGELOG.md", "usr/share/doc/waybill-agent/CHANGELOG.md", 0o644, false},
	)
	files = append(files, file{path: "usr/share/doc/waybill-agent/copyright", mode: 0o644, data: notices})
	return append(files, texts...), err
}

// fleetFiles is the cloud side's archive.
func fleetFiles(fleet string, notices []byte) ([]file, error) {
	files, err := sources(
		source{fleet, "waybill-fleet", 0o755, false},
		source{"LICENSE", "LICENSE", 0o644, false},
		source{"CHANGELOG.md", "CHANGELOG.md", 0o644, false},
	)
	return append(files, file{path: "LICENCES.txt", mode: 0o644, data: notices}), err
}

// source says from where a file of a package comes.
type source struct {
	from, path string
	mode       int64
	config     bool
}

func sources(list ...source) (files []file, err error) {
	for _, s := range list {
		data, err := os.ReadFile(s.from)
		if err != nil {
			return nil, err
		}
		files = append(files, file{s.path, s.mode, data, s.config})
	}
	return files, nil
}
