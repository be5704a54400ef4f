package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/can"
)

// The names are documented in docs/CAN.md and used by other people's dashboards.
func TestCANMetrics(t *testing.T) {
	r := newMonitorRig(t, "*")
	r.links.state = controller(can.BusErrorPassive)
	r.links.state.Bitrate, r.links.state.RestartMs = 500000, 100
	r.links.state.Events = can.LinkEvents{BusErrors: 1, Warnings: 2, Passives: 3, BusOffs: 4, LostArbitration: 5, Restarts: 6}
	r.second()
	r.hear(can.ErrorCounters|can.ErrorBusOff, 0, 0, 0, 0, 0, 0, 130, 7)
	r.second()
	r.counts.past = can.ReaderStats{Frames: 10, Drops: 2, Errors: 3, Unstamped: 4, Clamped: 5, Malformed: 6}
	r.counts.short.Add(7)
	r.plan.Counters.Unknown.Add(8)
	r.plan.Counters.Remote.Add(9)

	replay := &canSource{agent: r.agent, canSettings: canSettings{Bus: "can1"}, plan: can.Compile(nil, can.PlanOptions{})}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCANMetrics([]*canSource{r.canSource, replay}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		for _, m := range family.GetMetric() {
			line := family.GetName()
			for _, label := range m.GetLabel() {
				line += " " + label.GetValue()
			}
			got = append(got, fmt.Sprintf("%s %g", line, m.GetCounter().GetValue()+m.GetGauge().GetValue()))
		}
	}
	want := []string{
		"waybill_can_bus_load_ratio can0 0",
		"waybill_can_bus_state can0 3",
		"waybill_can_bus_state_changes_total can0 2",
		"waybill_can_clamped_frames_total can0 5",
		"waybill_can_controller_events_total can0 arbitration_lost 5",
		"waybill_can_controller_events_total can0 bus_error 1",
		"waybill_can_controller_events_total can0 bus_off 4",
		"waybill_can_controller_events_total can0 error_passive 3",
		"waybill_can_controller_events_total can0 error_warning 2",
		"waybill_can_controller_events_total can0 restart 6",
		"waybill_can_dropped_frames_total can0 2",
		"waybill_can_error_counter can0 rx 7",
		"waybill_can_error_counter can0 tx 130",
		"waybill_can_error_frames_total can0 3",
		"waybill_can_frames_total can0 10",
		"waybill_can_malformed_frames_total can0 6",
		"waybill_can_plan_warnings can0 0",
		"waybill_can_plan_warnings can1 0",
		"waybill_can_restart_seconds can0 0.1",
		"waybill_can_undecoded_frames_total can0 remote 9",
		"waybill_can_undecoded_frames_total can0 short 7",
		"waybill_can_undecoded_frames_total can0 unknown 8",
		"waybill_can_undecoded_frames_total can1 remote 0",
		"waybill_can_undecoded_frames_total can1 short 0",
		"waybill_can_undecoded_frames_total can1 unknown 0",
		"waybill_can_unstamped_frames_total can0 4",
	}
	if !slices.Equal(got, want) {
		for _, line := range got {
			if !slices.Contains(want, line) {
				t.Errorf("not expected: %s", line)
			}
		}
		for _, line := range want {
			if !slices.Contains(got, line) {
				t.Errorf("missing: %s", line)
			}
		}
	}
}
