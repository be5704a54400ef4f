package network

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	control   = telemetrypb.Lane_LANE_CONTROL
	event     = telemetrypb.Lane_LANE_EVENT
	telemetry = telemetrypb.Lane_LANE_TELEMETRY
	raw       = telemetrypb.Lane_LANE_RAW
)

// vehicle is what Links need of one; its clocks stand.
type vehicle struct {
	now    time.Time
	known  bool
	boot   time.Duration
	kept   []byte
	alarms *alarm.Board
}

func (v *vehicle) links(t *testing.T, list ...Link) *Links {
	t.Helper()
	if v.alarms == nil {
		v.alarms = alarm.NewBoard(func() int64 { return 1 }, slog.New(slog.DiscardHandler))
	}
	l, err := New(Options{
		Links: list, Now: func() (time.Time, bool) { return v.now, v.known }, Boot: func() int64 { return int64(v.boot) },
		Kept: v.kept, Keep: func(b []byte) error { v.kept = b; return nil },
		Alarms: v.alarms, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestBudget: only lanes with a budget are held, until midnight of the best known clock, and over restarts.
func TestBudget(t *testing.T) {
	lte := Link{Name: "lte", Metered: true, Without: []telemetrypb.Lane{raw}, Budget: map[telemetrypb.Lane]int64{telemetry: 1000}}
	v := &vehicle{now: time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC), known: true, boot: time.Hour}
	l := v.links(t, lte)
	if !l.Allowed(raw) {
		t.Error("a lane is barred before there is a connection")
	}
	l.current = l.links[0]
	expect := func(when string, allowed bool) {
		t.Helper()
		l.roll()
		if l.Allowed(telemetry) != allowed {
			t.Errorf("%s: telemetry may travel: %v", when, !allowed)
		}
		if !l.Allowed(control) || !l.Allowed(event) || l.Allowed(raw) {
			t.Errorf("%s: control %v, event %v, raw %v", when, l.Allowed(control), l.Allowed(event), l.Allowed(raw))
		}
		if standing := v.alarms.Standing(); allowed != (len(standing) == 0) || !allowed && !strings.Contains(standing[0].Text, "lane telemetry on link lte") {
			t.Errorf("%s: alarms %+v", when, standing)
		}
	}
	restart := func() {
		l.keep(true)
		l = v.links(t, lte)
		l.current = l.links[0]
	}
	l.Traffic(telemetry, 900, 0)
	l.Traffic(event, 5000, 0)
	l.Traffic(0, 700, 9000)
	expect("100 bytes are left", true)
	l.Traffic(telemetry, 200, 0)
	expect("nothing is left", false)
	restart()
	expect("after a restart", false)
	v.now = v.now.Add(3 * time.Hour)
	expect("the next day", true)
	l.Traffic(telemetry, 1000, 0)
	v.now = v.now.AddDate(0, 0, -3)
	expect("a clock that goes back gives nothing back", false)
	v.now = v.now.AddDate(0, 0, 1)
	expect("the day after that", true)

	// A vehicle that loses its clock counts hours of its own, in this run and those after it.
	l.Traffic(telemetry, 1000, 0)
	v.known = false
	expect("no clock", false)
	v.boot += 14 * time.Hour
	expect("14 h later", false)
	restart()
	v.boot = 30 * time.Minute
	l.rolled = 0
	expect("after a restart without a clock", false)
	v.boot += 10 * time.Hour
	expect("24 h and a half", true)
	l.Traffic(telemetry, 1000, 0)
	v.known = true
	expect("the date becomes known: what was counted is that day's", false)
	v.now = v.now.AddDate(0, 0, 1)
	expect("its midnight", true)

	var m dto.Metric
	if err := l.bytes.WithLabelValues("lte", "telemetry", "sent").Write(&m); err != nil || m.GetCounter().GetValue() != 1000 {
		t.Errorf("%g bytes counted since the restart, %v", m.GetCounter().GetValue(), err)
	}
	v.kept = []byte("{")
	l = v.links(t, lte)
	l.current = l.links[0]
	expect("after a file that cannot be read", true)
}

// TestOrder: by priority, then by price; a link that failed comes last until it is forgiven.
func TestOrder(t *testing.T) {
	v := &vehicle{}
	l := v.links(t, Link{Name: "lte", Metered: true, Priority: 1}, Link{Name: "sat", Metered: true, Priority: 5},
		Link{Name: "wifi", Priority: 1}, Link{Name: "eth", Interface: "waybill-none"})
	l.look()
	names := func() string {
		order, down := l.order()
		var list []string
		for _, s := range order {
			list = append(list, s.Name)
		}
		for _, err := range down {
			list = append(list, err.Error())
		}
		return strings.Join(list, ", ")
	}
	if got, want := names(), "wifi, lte, sat, link eth: interface waybill-none is not there"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
	l.current = l.links[1]
	l.Connected(errors.New("the network has a login page"))
	if got := names(); !strings.HasPrefix(got, "lte, sat, wifi") {
		t.Errorf("after a failure: %s", got)
	}
	l.Connected(nil)
	if got := names(); !strings.HasPrefix(got, "wifi, lte, sat") {
		t.Errorf("after a success: %s", got)
	}
}

// TestNothingIsUp: the error says why, for each link.
func TestNothingIsUp(t *testing.T) {
	l := (&vehicle{}).links(t, Link{Name: "wifi", Interface: "waybill-none"}, Link{Name: "lte", Interface: "waybill-not"})
	_, err := l.Dial(context.Background(), "tcp", "127.0.0.1:9")
	for _, want := range []string{"link wifi", "link lte", "waybill-none is not there"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestNextLink: where the best link does not lead to the broker, the next one is taken.
func TestNextLink(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l := (&vehicle{}).links(t, Link{Name: "lo", Interface: "lo", Priority: 1}, Link{Name: "any", Priority: 2})
	// The loopback has no address that leads anywhere, so it is never up.
	conn, err := l.Dial(context.Background(), "tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if l.Current() != "any" {
		t.Errorf("over %q", l.Current())
	}
}
