package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/clock"
)

// Problems of a receiver.
const (
	problemGPSMissing     = "gps-device-missing"
	problemGPSPermission  = "gps-no-permission"
	problemGPSNoTerminal  = "gps-not-a-serial-device"
	problemGPSDevice      = "gps-device-fails"
	problemGPSUnreachable = "gps-unreachable"
	problemGPSSilent      = "gps-silent"
	problemGPSNoNMEA      = "gps-no-nmea"
	problemGPSBaud        = "gps-wrong-baud"
	problemGPSNoFix       = "gps-no-fix"
)

// A receiver at another rate is given rateListen to say two sound sentences.
const rateListen = 1500 * time.Millisecond

// listened is what a receiver said within a time.
type listened struct {
	counters gps.Counters
	err      error // it could not be read, and that was the last word
	valid    bool  // a fix came
	inView   int   // satellites, as far as it tells
}

// unknown is how much came that is no NMEA.
func (l *listened) unknown() (n uint64) {
	n = l.counters.NoiseBytes
	for _, rejected := range l.counters.Rejected {
		n += rejected
	}
	return n
}

// countingReceiver is a reader of any kind of receiver.
type countingReceiver interface {
	liveReceiver
	Counters() gps.Counters
	AppendSky([]gps.Satellite) []gps.Satellite
}

// receiver looks at one receiver, and listens until it has a fix.
func (d *device) receiver(ctx context.Context, g gpsSettings) {
	step := "gps " + g.Name
	if g.Serial != "" && !d.serialDevice(step, g.Serial) {
		return
	}
	if d.listen <= 0 {
		d.skip(step, "not listened to")
		return
	}
	if g.Serial != "" && d.owner != "" {
		d.skip(step, "%s reads it; two readers would share its bytes (waybill-agent status tells of the fix)", d.owner)
		return
	}
	heard, err := listenTo(ctx, g, d.listen, false)
	if err != nil {
		d.fail(step, problemGPSDevice, err.Error(), "correct gps: in the configuration")
		return
	}
	switch c := heard.counters; {
	case heard.valid:
		d.ok(step, "it has a fix; %d sentences or reports, %d satellites in view", c.Sentences, heard.inView)
	case c.Sentences > 0:
		d.warn(step, problemGPSNoFix, fmt.Sprintf("it speaks (%d sentences or reports), and has no fix; %d satellites in view",
			c.Sentences, heard.inView), "give its antenna a view of the sky; a cold start takes a minute, a receiver that was "+
			"carried far takes longer")
	case heard.unknown() > 0:
		d.notNMEA(ctx, step, g)
	case heard.err != nil:
		d.notReached(step, g, heard.err)
	case g.GPSD != nil:
		d.fail(step, problemGPSSilent, fmt.Sprintf("gpsd at %s answers, and has no receiver that reports", g.GPSD.Address),
			"gpspipe -w shows what it has; name its device in /etc/default/gpsd, or correct gpsd.device:")
	default:
		d.fail(step, problemGPSSilent, fmt.Sprintf("nothing came within %v", d.listen),
			"is the receiver powered, and its transmit line on our receive line? some speak only after they were told to (a "+
				"modem: AT+CGPS=1, mmcli --location-enable-gps-nmea)")
	}
}

// serialDevice says whether a device can be opened, as tarm/serial does it.
func (d *device) serialDevice(step, path string) bool {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		d.fail(step, problemGPSMissing, fmt.Sprintf("%s: %v", path, err),
			"plug it in and look at dmesg; ls -l /dev/serial/by-id shows what is there, under names that survive replugging")
		return false
	case errors.Is(err, fs.ErrPermission):
		d.fail(step, problemGPSPermission, fmt.Sprintf("%s: %v", path, err),
			"let the agent's user into its group: sudo usermod -aG "+groupOf(path)+" waybill, or SupplementaryGroups= of the "+
				"service")
		return false
	case err != nil:
		d.fail(step, problemGPSDevice, fmt.Sprintf("%s: %v", path, err), "another program may hold it (fuser "+path+"), or "+
			"its driver fails (dmesg)")
		return false
	}
	defer unix.Close(fd)
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		d.fail(step, problemGPSNoTerminal, path+" is no serial device", "correct serial:; a recorded log is replay:, a server "+
			"tcp:")
		return false
	}
	return true
}

// groupOf names the group that a device belongs to.
func groupOf(path string) string {
	if info, err := os.Stat(path); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			if g, err := user.LookupGroupId(strconv.Itoa(int(stat.Gid))); err == nil && g.Name != "root" {
				return g.Name
			}
		}
	}
	return "dialout"
}

// notNMEA says why bytes come and no sentences: at another rate there may be some.
func (d *device) notNMEA(ctx context.Context, step string, g gpsSettings) {
	if g.Serial != "" && g.Baud != gps.AutoBaud {
		for _, rate := range usualBauds {
			other := g
			other.Baud = rate
			if rate == g.Baud {
				continue
			}
			if heard, err := listenTo(ctx, other, rateListen, true); err == nil && heard.counters.Sentences >= 2 {
				d.fail(step, problemGPSBaud, fmt.Sprintf("it speaks at %d bit/s, and is read at %d", rate, g.Baud),
					fmt.Sprintf("baud: %d, or baud: auto", rate))
				return
			}
		}
	}
	d.fail(step, problemGPSNoNMEA, "bytes come, and none of them are NMEA 0183 at any usual rate",
		"it may speak a binary protocol (u-blox UBX, SiRF): switch NMEA on with the maker's tool, or let gpsd read it "+
			"(gpsd:); or it is another device")
}

// notReached says why a server does not answer.
func (d *device) notReached(step string, g gpsSettings, err error) {
	switch {
	case g.Serial != "":
		d.fail(step, problemGPSDevice, err.Error(), "look at dmesg")
	case g.GPSD != nil:
		d.fail(step, problemGPSUnreachable, "no gpsd at "+g.GPSD.Address+": "+err.Error(),
			"systemctl start gpsd, or correct gpsd.address:")
	default:
		d.fail(step, problemGPSUnreachable, "no server at "+g.TCP+": "+err.Error(),
			"does the router send NMEA to TCP clients there? correct tcp:")
	}
}

// listenTo reads a receiver for a time, or until it has a fix; enough ends it with two sound sentences.
func listenTo(ctx context.Context, g gpsSettings, long time.Duration, enough bool) (*listened, error) {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	l := &listened{}
	receiver, err := openReceiver(g, func(err error) {
		if ctx.Err() == nil {
			l.err = err
		}
	})
	if err != nil {
		return nil, err
	}
	err = receiver.Run(ctx, func(f gps.Fix) {
		l.valid = l.valid || f.Valid()
		if l.valid || enough && receiver.Counters().Sentences >= 2 {
			cancel()
		}
	})
	l.counters, l.inView = receiver.Counters(), len(receiver.AppendSky(nil))
	return l, err
}

// openReceiver makes a reader of its own kind, beside the agent.
func openReceiver(g gpsSettings, state func(error)) (countingReceiver, error) {
	quiet := slog.New(slog.DiscardHandler)
	switch {
	case g.TCP != "":
		return gps.NewTCP(gps.TCPOptions{Address: g.TCP, Clock: clock.System{}, Log: quiet, OnState: state})
	case g.GPSD != nil:
		return gps.NewGPSD(gps.GPSDOptions{Address: g.GPSD.Address, Device: g.GPSD.Device, Clock: clock.System{}, Log: quiet,
			OnState: state})
	}
	return gps.NewSerial(gps.SerialOptions{Device: g.Serial, Baud: g.Baud, Clock: clock.System{}, Log: quiet, OnState: state})
}
