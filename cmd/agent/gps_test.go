package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// runGPS runs a gps command line on bytes as standard input.
func runGPS(stdin []byte, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetIn(bytes.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	code = cli.Execute(root, append([]string{"gps"}, args...), &errs)
	return code, out.String(), errs.String()
}

// drive is a short log: two epochs with a fix, one without, one with.
func driveLog() []byte {
	log := []byte("# Date: 2026-03-01\n")
	for second := range 4 {
		f := gps.Fix{
			Time: time.Date(2026, 3, 23, 12, 35, second, 250e6, time.UTC).UnixNano(), Latitude: 48117300000, Longitude: -11516666600,
			Altitude: 545.4, Separation: 46.9, Speed: 20 * 1852. / 3600, Track: 84.4, HDOP: 0.9, Satellites: 8, Mode: gps.Mode3D,
			Quality: gps.QualityDGNSS, Fields: gps.HasTime | gps.HasPosition | gps.HasAltitude | gps.HasSeparation | gps.HasSpeed |
				gps.HasTrack | gps.HasHDOP | gps.HasSatellites | gps.HasQuality,
		}
		if second == 2 {
			f.Mode = gps.ModeNoFix
		}
		log = gps.AppendGSA(gps.AppendGGA(gps.AppendRMC(log, f), f), f)
	}
	return log
}

func TestGPSDecode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drive.nmea")
	if err := os.WriteFile(path, driveLog(), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runGPS(nil, "decode", path)
	if code != cli.OK || stderr != "" {
		t.Errorf("exit %d, %q", code, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3:\n%s", len(lines), stdout)
	}
	const want = `{"time":"2026-03-23T12:35:00.250Z","mode":3,"lat":48.1173,"lon":-11.5166666,"alt":545.4,"geoid":46.9,` +
		`"alt_ellipsoid":592.300,"speed":10.2889,"track":84.4,"error_lat":0.955,"error_lon":0.955,"error_derived":true,` +
		`"hdop":0.9,"satellites":8,"systems":{"gps":{"used":8,"seen":0}},"quality":"dgnss"}`
	if lines[0] != want {
		t.Errorf("\n got %s\nwant %s", lines[0], want)
	}
	if _, again, _ := runGPS(driveLog(), "decode"); again != stdout {
		t.Error("standard input gives another result than the file")
	}
	if _, again, _ := runGPS(driveLog(), "decode", "-"); again != stdout {
		t.Error(`"-" gives another result than the file`)
	}
}

func TestGPSDecodeAll(t *testing.T) {
	_, stdout, _ := runGPS(driveLog(), "decode", "--all")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines, want 4:\n%s", len(lines), stdout)
	}
	var without struct {
		Mode     int
		Lat, Lon *float64
	}
	if err := json.Unmarshal([]byte(lines[2]), &without); err != nil {
		t.Fatal(err)
	}
	if without.Mode != 1 || without.Lat != nil || without.Lon != nil {
		t.Errorf("the epoch without a fix: %s", lines[2])
	}
}

func TestGPSDecodeExitCodes(t *testing.T) {
	noise := bytes.Repeat([]byte("\x00$GPRMC,1\xff$GPGGA*00\n\xfe#"), 1000)
	for name, c := range map[string]struct {
		stdin  []byte
		args   []string
		code   int
		stderr string
	}{
		"empty input":   {args: []string{"decode"}, code: cli.OK},
		"noise":         {stdin: noise, args: []string{"decode"}, code: cli.OK, stderr: "0 sentences used, 0 without a checksum, 1000 with a wrong one, 1000 malformed"},
		"line":          {stdin: []byte("\n\n$GPRMC*00\n"), args: []string{"decode"}, code: cli.OK, stderr: "standard input:3: warning: checksum"},
		"no such file":  {args: []string{"decode", filepath.Join(t.TempDir(), "none")}, code: cli.Failed, stderr: "none"},
		"a folder":      {args: []string{"decode", t.TempDir()}, code: cli.Failed, stderr: "directory"},
		"two logs":      {args: []string{"decode", "a", "b"}, code: cli.Usage, stderr: "takes one log"},
		"unknown flag":  {args: []string{"decode", "--nmea"}, code: cli.Usage, stderr: "--nmea"},
		"no such thing": {args: []string{"encode"}, code: cli.Usage, stderr: "encode"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := runGPS(c.stdin, c.args...)
			if code != c.code || stdout != "" || !strings.Contains(stderr, c.stderr) || c.stderr == "" && stderr != "" {
				t.Errorf("exit %d, stdout %q, stderr %.300q", code, stdout, stderr)
			}
			if n := strings.Count(stderr, "\n"); n > maxRejectLines+1 {
				t.Errorf("%d lines of warnings", n)
			}
		})
	}
}

func TestGPSHelpShowsAnExample(t *testing.T) {
	code, stdout, _ := runGPS(nil, "decode", "--help")
	for _, want := range []string{"Examples:", "waybill-agent gps decode drive.nmea", "--all", "# Date:"} {
		if code != cli.OK || !strings.Contains(stdout, want) {
			t.Errorf("exit %d, help without %q", code, want)
		}
	}
}
