package uplink_test

import (
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
)

// TestFormats: each lane in its own form, the clock record with it, and released by the same receipts.
func TestFormats(t *testing.T) {
	catalogue := &telemetrypb.Catalogue{Format: 1, Signals: []*telemetrypb.Signal{
		{Id: 1, Name: "can0.A.One", Unit: "km/h", Scale: 0.5}, {Id: 2, Name: "can0.A.Two", Scale: 1}, {Id: 3, Name: "can0.A.Three", Scale: 1},
	}}
	for _, format := range []uplink.Format{uplink.FormatColumns, uplink.FormatPlain, uplink.FormatJSON} {
		for _, known := range []bool{true, false} {
			name := string(format)
			if !known {
				name += ", catalogue unknown"
			}
			t.Run(name, func(t *testing.T) {
				b := newBench(t, false)
				b.add(control, 2)
				b.add(telemetry, 40)
				o := b.options()
				o.Format = func(telemetrypb.Lane) uplink.Format { return format }
				o.Catalogue = func(short [16]byte) *telemetrypb.Catalogue {
					if !known || short != [16]byte{9} {
						return nil
					}
					return catalogue
				}
				o.Clocks = func(boot [16]byte) *telemetrypb.ClockRecord {
					if boot != b.boot {
						t.Errorf("asked for the clock of boot %x", boot)
					}
					return &telemetrypb.ClockRecord{BootId: boot[:], Revision: 4, Anchors: []*telemetrypb.Anchor{
						{BootNs: 0, UnixNs: 1_700_000_000_000_000_000, Source: telemetrypb.TimeSource_TIME_SOURCE_GPS},
					}}
				}
				u, _ := b.start(o)
				b.arrived(42)
				for _, s := range b.store.Order() {
					wantPlain := format != uplink.FormatColumns && (known || s.Lane == control)
					if s.Plain != wantPlain {
						t.Errorf("batch %v in plain: %v", s.Key, s.Plain)
					}
					if len(s.Clocks) != 1 || s.Clocks[0].Revision != 4 {
						t.Errorf("batch %v came with the clocks %v", s.Key, s.Clocks)
					}
					if s.Lane == telemetry && s.Samples == 0 {
						t.Errorf("batch %v has no samples", s.Key)
					}
				}
				if n := u.State().Unrendered; (n > 0) != (format != uplink.FormatColumns && !known) {
					t.Errorf("%d batches counted as not rendered", n)
				}
			})
		}
	}
}
