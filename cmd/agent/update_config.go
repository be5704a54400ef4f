package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// updateConfig says whom the vehicle follows. Without it the agent is as it was installed.
type updateConfig struct {
	ECU       string                 `yaml:"ecu"`
	Hardware  string                 `yaml:"hardware"`
	Director  []string               `yaml:"director"`
	Images    []string               `yaml:"images"`
	Targets   []string               `yaml:"targets"`
	Cohort    string                 `yaml:"cohort"`
	Roots     updateRootsConfig      `yaml:"roots"`
	CA        string                 `yaml:"ca"`
	MQTT      bool                   `yaml:"mqtt"`
	Slots     string                 `yaml:"slots"`
	Poll      string                 `yaml:"poll"`
	WiFi      []string               `yaml:"wifi"`
	Signals   updateSignalsConfig    `yaml:"signals"`
	Parked    updateParkedConfig     `yaml:"parked"`
	Consent   *updateConsentConfig   `yaml:"consent"`
	Probation updateProbationConfig  `yaml:"probation"`
	Installer *updateInstallerConfig `yaml:"installer"`
}

type updateRootsConfig struct {
	Director string `yaml:"director"`
	Images   string `yaml:"images"`
}

type updateSignalsConfig struct {
	Speed     string `yaml:"speed"`
	Ignition  string `yaml:"ignition"`
	Gear      string `yaml:"gear"`
	Handbrake string `yaml:"handbrake"`
	Odometer  string `yaml:"odometer"`
	SoC       string `yaml:"soc"`
	Battery   string `yaml:"battery"`
	Ambient   string `yaml:"ambient"`
}

type updateParkedConfig struct {
	Gear        []float64 `yaml:"gear"`
	Hold        string    `yaml:"hold"`
	SilentSpeed string    `yaml:"silent_speed"`
}

type updateConsentConfig struct {
	Socket string `yaml:"socket"`
	File   string `yaml:"file"`
	UIDs   []int  `yaml:"uids"`
}

type updateProbationConfig struct {
	Healthy string `yaml:"healthy"`
	Source  string `yaml:"source"`
	Broker  string `yaml:"broker"`
	Limit   string `yaml:"limit"`
	Memory  string `yaml:"memory"`
}

// updateSettings are checked.
type updateSettings struct {
	ECU, Hardware             string
	Director, Images, Targets []string // base URLs, with a slash at their end
	DirectorRoot, ImagesRoot  string   // files
	CA                        string   // file; "": the system's alone
	MQTT                      bool     // ask the broker for images where no mirror answers
	Slots                     string   // folder
	Poll, Look                time.Duration
	WiFi                      []string // interfaces
	Signals                   map[reading]string
	Conditions                conditions.Options
	Consent                   *updateConsentConfig // nil: nobody to ask
	Probation                 probation.Options
	Installer                 *installerSettings // nil: whole systems are not updated
}

func (c *checker) update(s *settings) {
	raw := c.d.config.Update
	if raw == nil {
		return
	}
	at := func(key ...any) []any { return append([]any{"update"}, key...) }
	u := &updateSettings{
		ECU: raw.ECU, Hardware: orDefault(raw.Hardware, firmware.Current().Hardware),
		DirectorRoot: c.rootFile(raw.Roots.Director, at("roots", "director")...),
		ImagesRoot:   c.rootFile(raw.Roots.Images, at("roots", "images")...),
		CA:           c.path(raw.CA),
		MQTT:         raw.MQTT,
		Slots:        c.path(orDefault(raw.Slots, orDefault(os.Getenv("WAYBILL_FIRMWARE_DIR"), slots.DefaultDir))),
		Poll:         c.duration(raw.Poll, time.Hour, time.Second, 7*24*time.Hour, at("poll")...), WiFi: raw.WiFi,
		Conditions: conditions.Options{
			GearPark:    raw.Parked.Gear,
			Hold:        c.duration(raw.Parked.Hold, 30*time.Second, time.Second, time.Hour, at("parked", "hold")...),
			SilentSpeed: c.duration(raw.Parked.SilentSpeed, 0, 0, 7*24*time.Hour, at("parked", "silent_speed")...),
		},
		Probation: probation.Options{
			Healthy:     c.duration(raw.Probation.Healthy, 2*time.Minute, time.Second, 24*time.Hour, at("probation", "healthy")...),
			SourceGrace: c.duration(raw.Probation.Source, 2*time.Minute, time.Second, 24*time.Hour, at("probation", "source")...),
			BrokerGrace: c.duration(raw.Probation.Broker, 15*time.Minute, time.Second, 24*time.Hour, at("probation", "broker")...),
			Longest:     c.duration(raw.Probation.Limit, 24*time.Hour, time.Second, 30*24*time.Hour, at("probation", "limit")...),
			MemoryCap:   c.size(raw.Probation.Memory, 128<<20+s.Queue.Memory, 16<<20, 4<<30, at("probation", "memory")...),
		},
	}
	s.Update = u
	// A look at the conditions and at the health is worth little less often than what it is to see.
	u.Look = max(min(5*time.Second, u.Probation.Healthy/4, u.Probation.SourceGrace/4, u.Conditions.Hold/2), 250*time.Millisecond)
	if u.ECU == "" {
		c.fail("want the id by which the director knows this unit, such as agent; `waybill-fleet ota init --line LINE=ID:HARDWARE` gave it",
			at("ecu")...)
	}
	if s.LogTime {
		c.fail("is for vehicles: a replay with its own time is none; set time: receipt, or leave update: out", at()...)
	}
	u.Director = c.bases(raw.Director, s, raw.Cohort, "director")
	u.Images = c.bases(raw.Images, s, raw.Cohort, "images")
	u.Targets = c.bases(raw.Targets, s, raw.Cohort, "targets")
	if len(raw.Targets) == 0 {
		for _, base := range u.Images { // as waybill-fleet ota lays them out
			u.Targets = append(u.Targets, base+"targets/")
		}
	}
	if raw.CA != "" {
		if _, err := os.Stat(u.CA); err != nil {
			c.fail(err.Error(), at("ca")...)
		}
	}
	if u.MQTT && c.d.config.Uplink.Broker == "" {
		c.fail("needs uplink.broker: waybill-fleet ota serve answers there", at("mqtt")...)
	}
	c.updateSignals(raw, u)
	c.updateConsent(raw, u)
	c.updateInstaller(raw.Installer, u)
}

// updateSignals checks what the conditions are held against. That the signals exist is seen when the DBC files are read.
func (c *checker) updateSignals(raw *updateConfig, u *updateSettings) {
	r := &raw.Signals
	u.Signals = map[reading]string{}
	for at, name := range map[reading]string{readSpeed: r.Speed, readIgnition: r.Ignition, readGear: r.Gear, readHandbrake: r.Handbrake,
		readOdometer: r.Odometer, readSoC: r.SoC, readBattery: r.Battery, readAmbient: r.Ambient} {
		if name != "" {
			u.Signals[at] = name
		}
	}
	if (r.Gear == "") != (len(raw.Parked.Gear) == 0) {
		c.fail("signals.gear: goes together with parked.gear:, the values of that signal that are P", "update", "signals", "gear")
	}
}

func (c *checker) updateConsent(raw *updateConfig, u *updateSettings) {
	if raw.Consent == nil {
		return
	}
	consent := *raw.Consent
	consent.File, consent.Socket = c.path(consent.File), c.path(consent.Socket)
	if (consent.File == "") == (consent.Socket == "") {
		c.fail("want either socket: (of the head unit) or file: (a folder for question.json and answer.json)", "update", "consent")
	}
	if len(consent.UIDs) == 0 {
		consent.UIDs = []int{0}
	}
	u.Consent = &consent
}

// bases checks the addresses of mirrors and fills in who this vehicle is.
func (c *checker) bases(list []string, s *settings, cohort, key string) (out []string) {
	if what := map[string]string{"director": "director", "images": "image repository"}[key]; len(list) == 0 && what != "" {
		c.fail(fmt.Sprintf("want the addresses of the %s, https://…/", what), "update", key)
	}
	number, err := strconv.Atoi(orDefault(cohort, "0"))
	switch {
	case err != nil || number < 0 || number >= telemetrypb.Cohorts:
		c.fail(fmt.Sprintf("want a number from 0 to %d, got %q; left out it comes from the device's id", telemetrypb.Cohorts-1, cohort),
			"update", "cohort")
	case cohort == "":
		number = telemetrypb.Cohort(s.Tenant, s.Device)
	}
	names := strings.NewReplacer("{device}", url.PathEscape(s.Device), "{tenant}", url.PathEscape(s.Tenant), "{cohort}", strconv.Itoa(number))
	for i, text := range list {
		base := names.Replace(text)
		if !strings.HasSuffix(base, "/") {
			base += "/"
		}
		if strings.ContainsAny(base, "{}") {
			c.fail(fmt.Sprintf("want {device}, {tenant} or {cohort} between braces, got %q", text), "update", key, i)
		} else if u, err := url.Parse(base); err == nil && u.User != nil {
			c.fail("no user or password in the URL, where logs would show it", "update", key, i)
		} else if _, err := trust.NewHTTP(trust.HTTPOptions{Base: base}); err != nil {
			c.fail(err.Error(), "update", key, i)
		}
		out = append(out, base)
	}
	return out
}

// rootFile looks whether a file is the root of a repository. Its signatures are verified when it is used.
func (c *checker) rootFile(name string, path ...any) string {
	if name == "" {
		c.fail("want the file of the factory's root; `waybill-fleet ota init` writes it to factory/", path...)
		return ""
	}
	name = c.path(name)
	data, err := os.ReadFile(name)
	if err == nil {
		var root struct {
			Signed struct {
				Type string `json:"_type"`
			} `json:"signed"`
		}
		if err = json.Unmarshal(data, &root); err == nil && root.Signed.Type != "root" {
			err = errors.New("it is not the root metadata of a repository")
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	if err != nil {
		c.fail(err.Error(), path...)
	}
	return name
}
