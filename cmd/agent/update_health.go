package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/uplink"
)

const (
	// reachEvery is how often a broker that the uplink does not reach is tried otherwise, while a version is on trial.
	reachEvery   = 30 * time.Second
	reachTimeout = 10 * time.Second
)

// health sees what a version on trial is judged by. Its look is called by one goroutine.
type health struct {
	*agent
	sources []healthSource
	pubacks uint64
	reach   *reach // nil: there is no broker
}

// healthSource is a bus or a receiver. standing are the alarms by name.
type healthSource interface {
	name() string
	begun() bool // it is open, or what is open in its place
	look(standing map[string]string) probation.Source
}

func (h *health) names() (list []string) {
	for _, s := range h.sources {
		list = append(list, s.name())
	}
	return list
}

// settled says whether every source was opened, or an alarm tells why not.
func (h *health) settled() bool {
	standing := h.standing()
	for _, s := range h.sources {
		if _, alarmed := standing[alarmOf(s.name())]; !alarmed && !s.begun() {
			return false
		}
	}
	return true
}

// alarmOf is the alarm of a source: can.can0 of can:can0.
func alarmOf(source string) string { return strings.Replace(source, ":", ".", 1) }

// standing are the texts of the alarms by name.
func (a *agent) standing() map[string]string {
	list := map[string]string{}
	for _, al := range a.alarms.Standing() {
		list[al.Name] = al.Text
	}
	return list
}

// look sees what works now. onTrial says whether the answer is worth a connection.
func (h *health) look(onTrial bool) probation.Health {
	standing := h.standing()
	seen := probation.Health{QueueErr: standing[alarmDisk], AnonBytes: anonBytes("/proc/self/status")}
	for _, s := range h.sources {
		seen.Sources = append(seen.Sources, s.look(standing))
	}
	if h.uplink == nil {
		return seen
	}
	st := h.uplink.State()
	seen.Acked, h.pubacks = st.Pubacks > h.pubacks, st.Pubacks
	switch st.Phase {
	case uplink.Online:
		seen.Reach = probation.ReachBroker
	case uplink.Resting, uplink.Stopped: // it is told to stay away
	default:
		if onTrial {
			seen.Reach = h.reach.ask(h.clock.Boot())
		}
	}
	return seen
}

// busHealth tells of a bus. What is read is the reader's count, what comes is the kernel's.
type busHealth struct {
	bus         *canSource
	read, heard uint64
}

func (b *busHealth) name() string { return b.bus.lossName() }

func (b *busHealth) begun() bool { return b.bus.Replay != nil || b.bus.counts.isOpen() }

func (b *busHealth) look(standing map[string]string) probation.Source {
	heard := b.traffic() // before what was read: a frame in between must not seem to be left lying
	stats := b.bus.counts.stats()
	read := stats.Frames - stats.Errors + b.bus.counts.replayed.Load()
	s := probation.Source{Name: b.name(), Reads: read > b.read, Traffic: heard > b.heard, Err: standing[alarmOf(b.name())]}
	b.read, b.heard = read, heard
	if s.Err != "" && b.bus.Bitrate == 0 && !interfaceUp(b.bus.Interface) {
		s.Err = "" // who has to bring it up is not the agent
	}
	return s
}

// traffic is how many frames the kernel has for this reader: those that passed its filters (/proc/net/can, in
// Documentation/networking/can.rst), or all of the interface where it has none. Frames that nobody asked for are no sign of
// a deaf reader: a parked vehicle's network management goes on for minutes.
func (b *busHealth) traffic() uint64 {
	if b.bus.Replay != nil {
		return 0
	}
	if !b.bus.counts.filtered.Load() {
		return interfaceCount("/sys/class/net", b.bus.Interface, "rx_packets")
	}
	var sum uint64
	for _, list := range []string{"rcvlist_sff", "rcvlist_eff", "rcvlist_fil", "rcvlist_inv"} {
		text, err := os.ReadFile(filepath.Join("/proc/net/can", list))
		if err == nil {
			sum += matches(text, b.bus.Interface)
		}
	}
	return sum
}

// matches adds up what the filters of an interface let through: device, can_id, can_mask, function, userdata, matches,
// ident.
func matches(text []byte, device string) (sum uint64) {
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) == 7 && f[0] == device {
			n, err := strconv.ParseUint(f[5], 10, 64)
			if err == nil {
				sum += n
			}
		}
	}
	return sum
}

// interfaceCount is a count of the kernel's; 0 where there is none.
func interfaceCount(folder, name, count string) uint64 {
	text, err := os.ReadFile(filepath.Join(folder, name, "statistics", count))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func interfaceUp(name string) bool {
	i, err := net.InterfaceByName(name)
	return err == nil && i.Flags&net.FlagUp != 0
}

// receiverHealth tells of a receiver of positions.
type receiverHealth struct {
	receiver *gpsSource
	read     uint64
}

func (r *receiverHealth) name() string { return "gps:" + r.receiver.Name }

func (r *receiverHealth) begun() bool { return r.receiver.Replay != nil || r.receiver.opened.Load() }

func (r *receiverHealth) look(standing map[string]string) probation.Source {
	read := r.receiver.epochs.Load()
	s := probation.Source{Name: r.name(), Reads: read > r.read, Err: standing[alarmOf(r.name())]}
	r.read = read
	if s.Err != "" && !r.receiver.there() {
		s.Err = "" // it is unplugged, or the program that serves it is not there
	}
	return s
}

// there says whether what the receiver is read from is there, by other means than reading it.
func (g *gpsSource) there() bool {
	addr := g.TCP
	if g.GPSD != nil {
		addr = g.GPSD.Address
	}
	if addr == "" {
		_, err := os.Stat(g.Serial)
		return err == nil
	}
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close() // it has shown what it was for
	return true
}

// anonBytes is the process's anonymous memory (proc_pid_status(5), RssAnon); 0: not known.
func anonBytes(file string) int64 {
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// reach tries the broker without the uplink, in the background: one that answers an uplink that gets nowhere is a broken
// uplink; a dead network is none.
type reach struct {
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	addr  string
	name  string          // in its certificate; "": without TLS
	ctx   context.Context // of the task that asks; it ends a try
	tries sync.WaitGroup

	last  int64 // CLOCK_BOOTTIME of the last try; of the asking goroutine
	found atomic.Uint32
}

// newReach takes a broker's URL apart. serverName is the name in its certificate where that is not the URL's.
func newReach(broker *url.URL, serverName string, dial func(context.Context, string, string) (net.Conn, error)) *reach {
	port := broker.Port()
	if port == "" {
		port = map[string]string{
			"tcp": "1883", "mqtt": "1883", "ssl": "8883", "tls": "8883", "mqtts": "8883", "ws": "80", "wss": "443",
		}[broker.Scheme]
	}
	r := &reach{dial: dial, addr: net.JoinHostPort(broker.Hostname(), port)}
	if secure(broker) {
		r.name = orDefault(serverName, broker.Hostname())
	}
	return r
}

// ask answers with what the last try found, and begins another one when it is time. now is CLOCK_BOOTTIME, ns.
func (r *reach) ask(now int64) probation.Reach {
	if r.last == 0 || now-r.last >= int64(reachEvery) {
		r.last = now
		r.tries.Go(func() {
			ctx, cancel := context.WithTimeout(r.ctx, reachTimeout)
			defer cancel()
			r.found.Store(uint32(r.try(ctx)))
		})
	}
	return probation.Reach(r.found.Load())
}

func (r *reach) try(ctx context.Context) probation.Reach {
	conn, err := r.dial(ctx, "tcp", r.addr)
	if err != nil {
		return probation.ReachNone
	}
	defer conn.Close()
	if r.name == "" {
		return probation.ReachBroker
	}
	// Nothing is believed of who answers, so nothing is verified: whether this version verifies well is what is on trial. A
	// network with a login page answers too, by another name.
	named := false
	config := &tls.Config{ServerName: r.name, InsecureSkipVerify: true} //nolint:gosec // see above
	config.VerifyConnection = func(s tls.ConnectionState) error {
		named = s.PeerCertificates[0].VerifyHostname(r.name) == nil
		return nil
	}
	_ = tls.Client(conn, config).HandshakeContext(ctx) // it may want a certificate of ours; its own has come by then
	if named {
		return probation.ReachBroker
	}
	return probation.ReachNone
}
