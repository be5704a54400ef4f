package main

import (
	"fmt"
	"path/filepath"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/firmware/install"
)

// updateInstallerConfig says who installs whole systems. Without it the agent's own slots are all that is updated.
type updateInstallerConfig struct {
	ECU      string          `yaml:"ecu"`
	Hardware string          `yaml:"hardware"`
	RAUC     *struct{}       `yaml:"rauc"`
	SWUpdate *swupdateConfig `yaml:"swupdate"`
	Hook     []string        `yaml:"hook"`
	Reboot   []string        `yaml:"reboot"`
}

type swupdateConfig struct {
	Socket   string `yaml:"socket"`
	Progress string `yaml:"progress"`
	Bits     int    `yaml:"bits"`
	Set      string `yaml:"set"`
	Mode     string `yaml:"mode"`
}

// installerSettings are checked: one of RAUC, SWUpdate and Hook is given.
type installerSettings struct {
	ECU, Hardware string
	RAUC          bool
	SWUpdate      *install.SWUpdateOptions
	Hook          []string // a program by its absolute path, and its first arguments
	Reboot        []string // the command that has the machine start anew
}

// updateInstaller is called when the rest of the section has been read.
func (c *checker) updateInstaller(raw *updateInstallerConfig, u *updateSettings) {
	if raw == nil {
		return
	}
	at := func(key string) []any { return []any{"update", "installer", key} }
	s := &installerSettings{
		ECU: raw.ECU, Hardware: orDefault(raw.Hardware, firmware.Current().Hardware), RAUC: raw.RAUC != nil, Hook: raw.Hook,
		Reboot: raw.Reboot,
	}
	u.Installer = s
	switch {
	case s.ECU == "":
		c.fail("want the id by which the director knows the whole system, such as system", at("ecu")...)
	case s.ECU == u.ECU:
		c.fail(fmt.Sprintf("want another id than update.ecu: the agent and the whole system are two units, got %q for both", s.ECU),
			at("ecu")...)
	}
	given := 0
	for _, is := range []bool{s.RAUC, raw.SWUpdate != nil, raw.Hook != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		c.fail("want one of rauc: {}, swupdate: {} and hook: [PROGRAM, ARGUMENTS…]", "update", "installer")
	}
	if w := raw.SWUpdate; w != nil {
		s.SWUpdate = &install.SWUpdateOptions{Control: c.path(w.Socket), Progress: c.path(w.Progress), Bits: w.Bits, Set: w.Set, Mode: w.Mode}
		if _, err := install.NewSWUpdate(*s.SWUpdate); err != nil {
			c.fail(err.Error(), at("swupdate")...)
		}
	}
	if raw.Hook != nil && (len(raw.Hook) == 0 || !filepath.IsAbs(raw.Hook[0])) {
		c.fail("want a program by its absolute path, and its first arguments: what PATH says is not what installs", at("hook")...)
	}
	if raw.Reboot == nil {
		s.Reboot = []string{"systemctl", "reboot"}
	} else if len(raw.Reboot) == 0 || raw.Reboot[0] == "" {
		c.fail("want a command and its arguments; left out it is [systemctl, reboot]", at("reboot")...)
	}
}
