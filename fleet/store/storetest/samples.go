package storetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// read gives all samples that fit.
func read(t testing.TB, s store.Store, q store.Query) (list []store.Reading) {
	t.Helper()
	if err := s.Samples(context.Background(), q, func(r *store.Reading) error { list = append(list, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	return list
}

func scalars(t *testing.T, s store.Store) {
	text, number := telemetrypb.KindString, telemetrypb.KindFloat
	values := []store.Scalar{{}, {Kind: text}, {Kind: text, Text: "a\x00b"}, {Kind: text, Text: "\xFF"}, {Kind: store.KindBlob, Text: "\xFF\x00"}, {Kind: store.KindBlob, Text: "12345678"}}
	for _, bits := range []uint64{0, 1, 1 << 31, 1 << 53, 1<<53 + 1, math.MaxInt64, 1 << 63, math.MaxUint64} {
		values = append(values, store.Scalar{Kind: telemetrypb.KindInt, Bits: bits}, store.Scalar{Kind: telemetrypb.KindUint, Bits: bits}, store.Scalar{Kind: number, Bits: bits})
	}
	for _, f := range []float64{1, -1, 0.1, 1e300, math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64} {
		values = append(values, store.Scalar{Kind: number, Bits: math.Float64bits(f)})
	}
	values = append(values, store.Scalar{Kind: number, Bits: 0x7FF8000000000001}, store.Scalar{Kind: number, Bits: 0xFFF0000000000001})
	rows := make([]store.Row, len(values))
	update(t, s, "car-1", func(tx store.Tx, d int64) error {
		g, err := tx.NamedSignal(d, "a", "V")
		if err != nil {
			return err
		}
		for i, v := range values {
			rows[i] = store.Row{Index: uint32(i), Signal: g, BootNS: int64(i) - 1, Raw: v, Value: store.ValueOf(telemetrypb.Sample{Kind: v.Kind, Bits: v.Bits}, 1, 0)}
			if v.Kind > number {
				rows[i].Value = store.Scalar{}
			}
		}
		rows[1].Time, rows[1].Label = store.Time{UnixNS: -5, UncertaintyNS: math.MaxUint64, Source: 3}, "on"
		last := &rows[len(rows)-1]
		last.Index, last.BootNS = math.MaxUint32, math.MaxInt64
		p, err := tx.PutBatch(d, Batch(1, 1))
		if err != nil {
			return err
		}
		return tx.PutSamples(p.ID, rows)
	})
	list := read(t, s, store.Query{})
	if len(list) != len(rows) {
		t.Fatalf("%d of %d samples", len(list), len(rows))
	}
	slices.SortFunc(list, func(a, b store.Reading) int { return int(int64(a.Index) - int64(b.Index)) })
	for i, r := range list {
		w := rows[i]
		if w.Time.Source != 0 {
			w.Time.UncertaintyNS = math.MaxInt64
		}
		got := store.Row{Index: r.Index, Signal: w.Signal, BootNS: r.BootNS, Time: r.Time, Raw: r.Raw, Value: r.Value, Label: r.Label}
		if got != w {
			t.Errorf("%+v came back as %+v", w, got)
		}
	}
	want(t, "totals", s.Totals().Samples, len(rows))
}

// texts: what a vehicle writes into names and reasons is taken, whatever it is; a store may change what it cannot keep.
func texts(t *testing.T, s store.Store) {
	const odd = "a\x00b\xFFü'\"\\"
	update(t, s, "car-1", func(tx store.Tx, d int64) error {
		b := Batch(1, 1)
		b.State, b.Reason, b.Bytes = store.StateParked, odd, []byte(odd)
		p, err := tx.PutBatch(d, b)
		if err != nil {
			return err
		}
		g, err := tx.NamedSignal(d, odd, odd)
		if err != nil {
			return err
		}
		if again, err := tx.NamedSignal(d, odd, odd); err != nil || again != g {
			return fmt.Errorf("rows %d and %d: %w", g, again, err)
		}
		for _, put := range []func() error{
			func() error { return tx.Settle(p.ID, store.StateStored, odd) },
			func() error { return tx.PutSamples(p.ID, []store.Row{{Signal: g, Label: odd}}) },
			func() error {
				return tx.PutLoss(d, p.ID, 0, &telemetrypb.Loss{Source: odd, Unit: odd, Detail: odd, BootId: []byte{1}})
			},
			func() error { return tx.PutEpoch(d, &telemetrypb.Epoch{Epoch: 1, Reason: odd}, Now) },
			func() error {
				return tx.PutInfo(d, p.ID, 0, 1, &telemetrypb.DeviceInfo{Vin: odd, Mode: odd, Versions: map[string]string{odd: odd}})
			},
			func() error { return tx.PutStatus(d, &telemetrypb.Status{Online: true, Version: "1\x00"}, Now) },
			func() error {
				return tx.PutResult(d, &telemetrypb.CommandResult{Id: odd, Name: odd, State: odd, Text: odd, Reason: odd}, Now)
			},
			func() error {
				return tx.PutDeadLetter(&store.DeadLetter{Topic: odd, Reason: odd, Detail: odd, Bytes: []byte(odd), At: Now})
			},
		} {
			if err := put(); err != nil {
				return err
			}
		}
		return nil
	})
	if list := read(t, s, store.Query{}); len(list) != 1 || !strings.Contains(list[0].Signal, "ü") || !strings.Contains(list[0].Label, "ü") {
		t.Errorf("%+v", list)
	}
	losses, err := s.Losses(context.Background(), "")
	if err != nil || len(losses) != 1 || !strings.HasSuffix(losses[0].Detail, `ü'"\`) || losses[0].BootID != "01" {
		t.Errorf("%+v, %v", losses, err)
	}
	if devices, err := s.Devices(context.Background()); err != nil || devices[0].Online == nil || !*devices[0].Online {
		t.Errorf("%+v, %v", devices, err)
	}
	if letters, err := s.DeadLetters(context.Background()); err != nil || string(letters[0].Bytes) != odd[:min(len(odd), LetterBytes)] {
		t.Errorf("%+v, %v", letters, err)
	}
}

// datedAgain: a boot's samples from one instant on, in steps, whatever came first.
func datedAgain(t *testing.T, s store.Store) {
	boot := [16]byte{7}
	var g int64
	for seq := uint64(1); seq <= 4; seq++ {
		update(t, s, "car-1", func(tx store.Tx, d int64) (err error) {
			if g, err = tx.NamedSignal(d, "a", ""); err != nil {
				return err
			}
			b := Batch(seq, 1)
			b.BootID, b.FirstNS, b.SpanNS, b.Samples = boot, int64(seq)*100, 20, 3
			if seq == 4 {
				b.FirstNS, b.SpanNS = math.MaxInt64, math.MaxUint64 // of a hostile vehicle
			}
			p, err := tx.PutBatch(d, b)
			if err != nil {
				return err
			}
			var rows []store.Row
			for i := range 3 {
				rows = append(rows, store.Row{Index: uint32(i), Signal: g, BootNS: int64(seq)*100 + int64(i)*10})
			}
			return tx.PutSamples(p.ID, rows)
		})
	}
	date := func(boot int64) store.Time { return store.Time{UnixNS: 1000 + boot, UncertaintyNS: 1, Source: 3} }
	update(t, s, "car-1", func(tx store.Tx, d int64) error { return tx.PutRetiming(d, boot, 210) })
	var changed int64
	steps := 0
	for done := false; !done; steps++ {
		update(t, s, "car-1", func(tx store.Tx, _ int64) error {
			r, ok, err := tx.NextRetiming()
			if err != nil || !ok || r.Boot != boot {
				return fmt.Errorf("next %+v %v: %w", r, ok, err)
			}
			n, d, err := tx.Retime(r.Device, r.Boot, 1, date)
			changed, done = changed+n, d
			return err
		})
	}
	want(t, "changed, in steps", fmt.Sprint(changed, steps), "8 4")
	for _, r := range read(t, s, store.Query{}) {
		w := store.Time{}
		if r.BootNS >= 210 {
			w = date(r.BootNS)
		}
		want(t, fmt.Sprint("time of ", r.BootNS), r.Time, w)
	}
	// Nothing changes the second time; unknown times come back; what the same transaction stored is dated, too.
	update(t, s, "car-1", func(tx store.Tx, d int64) error {
		b := Batch(5, 1)
		b.BootID = boot
		b.FirstNS = 500
		p, err := tx.PutBatch(d, b)
		if err != nil {
			return err
		}
		if err := tx.PutSamples(p.ID, []store.Row{{Signal: g, BootNS: 500}}); err != nil {
			return err
		}
		if err := tx.PutRetiming(d, boot, 250); err != nil {
			return err
		}
		n, done, err := tx.Retime(d, boot, 1000, func(at int64) store.Time {
			if at >= 400 && at < 500 {
				return store.Time{}
			}
			return date(at)
		})
		want(t, "again", fmt.Sprint(n, done), "4 true")
		return err
	})
	if _, ok, err := nextRetiming(s); ok || err != nil {
		t.Errorf("work is left: %v", err)
	}
	list := read(t, s, store.Query{From: time.Unix(0, 1000+300), To: time.Unix(0, 1000+501)})
	var at []int64
	for _, r := range list {
		at = append(at, r.BootNS)
	}
	want(t, "by time", at, "[300 310 320 500]")
}

func nextRetiming(s store.Store) (r store.Retiming, ok bool, err error) {
	err = s.Update(context.Background(), func(tx store.Tx) error { r, ok, err = tx.NextRetiming(); return err })
	return r, ok, err
}

// copies: an original beats its thinned copy, sample by sample, whichever comes first.
func copies(t *testing.T, s store.Store) {
	deliver := func(device string, seq uint64, values []int, supersedes ...*telemetrypb.SeqRange) (gone uint64) {
		update(t, s, device, func(tx store.Tx, d int64) error {
			g, err := tx.NamedSignal(d, "a", "")
			if err != nil {
				return err
			}
			b := Batch(seq, uint32(seq))
			b.Samples, b.Supersedes = uint32(len(values)), supersedes
			p, err := tx.PutBatch(d, b)
			if err != nil {
				return err
			}
			var rows []store.Row
			for i, v := range values {
				raw := store.Scalar{Kind: telemetrypb.KindInt, Bits: uint64(v)}
				rows = append(rows, store.Row{Index: uint32(i), Signal: g, BootNS: int64(v), Raw: raw, Value: raw})
			}
			if err := tx.PutSamples(p.ID, rows); err != nil {
				return err
			}
			gone, err = tx.Yield(d, p.ID, b)
			return err
		})
		return gone
	}
	holds := func(device, wanted string) {
		t.Helper()
		var got []string
		for _, r := range read(t, s, store.Query{Device: device}) {
			got = append(got, fmt.Sprintf("%d/%d", r.Seq, r.Raw.Bits))
		}
		slices.Sort(got)
		want(t, device, got, wanted)
	}
	of := &telemetrypb.SeqRange{First: 1, Last: 2}
	want(t, "an original", deliver("car-1", 1, []int{10, 11, 12}), 0)
	want(t, "a copy behind it", deliver("car-1", 3, []int{10, 12, 20, 22}, of), 2)
	holds("car-1", "[1/10 1/11 1/12 3/20 3/22]")
	want(t, "the other original", deliver("car-1", 2, []int{20, 21, 22}), 2)
	holds("car-1", "[1/10 1/11 1/12 2/20 2/21 2/22]")
	deliver("car-2", 5, []int{10, 20}, of)
	want(t, "a copy of the same", deliver("car-2", 6, []int{10, 30}, of), 1)
	holds("car-2", "[5/10 5/20 6/30]")
	want(t, "totals", fmt.Sprint(s.Totals().Samples, s.Totals().Gaps), "9 2") // of car-2, 3 and 4
	devices, err := s.Devices(context.Background())
	if err != nil || len(devices) != 2 {
		t.Fatal(devices, err)
	}
	want(t, "lanes", fmt.Sprint(devices[0].Lanes, devices[1].Lanes), "[{0000000000000009 telemetry 3 6 0 0 1 3 0}] [{0000000000000009 telemetry 2 3 0 0 0 6 2}]")
	update(t, s, "car-1", func(tx store.Tx, d int64) error {
		for _, c := range []struct {
			first, last uint64
			want        bool
		}{{1, 2, true}, {1, 3, false}, {3, 3, false}, {0, 1, false}, {2, 1, false}, {1, 1 << 63, false}, {1, math.MaxInt64, false}} {
			all, err := tx.AllStored(d, 9, tele, []*telemetrypb.SeqRange{{First: c.first, Last: c.last}})
			if err != nil {
				return err
			}
			want(t, fmt.Sprint("stored ", c.first, c.last), all, c.want)
		}
		none, err := tx.AllStored(d, 9, tele, nil)
		want(t, "stored: nothing", none, false)
		return err
	})
}

func queries(t *testing.T, s store.Store) {
	for _, device := range []string{"car-1", "car-2"} {
		update(t, s, device, func(tx store.Tx, d int64) error {
			p, err := tx.PutBatch(d, Batch(1, 1))
			if err != nil {
				return err
			}
			var rows []store.Row
			for i, name := range []string{"can0.Motor.Speed", "can0.Motor.Temp_1", "gps0.speed", "100%"} {
				g, err := tx.NamedSignal(d, name, "km/h")
				if err != nil {
					return err
				}
				rows = append(rows, store.Row{Index: uint32(i), Signal: g, Time: store.Time{UnixNS: Now.UnixNano() + int64(10-i), Source: 2}})
			}
			return tx.PutSamples(p.ID, rows)
		})
	}
	for _, c := range []struct {
		q    store.Query
		want string
	}{
		{store.Query{}, "car-1 100%|car-2 100%|car-1 gps0.speed|car-2 gps0.speed|car-1 can0.Motor.Temp_1|car-2 can0.Motor.Temp_1|car-1 can0.Motor.Speed|car-2 can0.Motor.Speed"},
		{store.Query{Device: "car-2", Signal: "can0.*"}, "car-2 can0.Motor.Temp_1|car-2 can0.Motor.Speed"},
		{store.Query{Device: "car-2", Signal: "can0.Motor.?????"}, "car-2 can0.Motor.Speed"},
		{store.Query{Device: "car-2", Signal: "*_*"}, "car-2 can0.Motor.Temp_1"},
		{store.Query{Signal: "*%", Tenant: "acme", Limit: 1}, "car-1 100%"},
		{store.Query{Tenant: "other"}, ""},
		{store.Query{Device: "car-1", From: Now.Add(8), To: Now.Add(10)}, "car-1 gps0.speed|car-1 can0.Motor.Temp_1"},
	} {
		var got []string
		for _, r := range read(t, s, c.q) {
			got = append(got, r.Device+" "+r.Signal)
		}
		want(t, fmt.Sprintf("%+v", c.q), strings.Join(got, "|"), c.want)
	}
	stop := fmt.Errorf("enough")
	if err := s.Samples(context.Background(), store.Query{}, func(*store.Reading) error { return stop }); err != stop {
		t.Errorf("a reader that fails: %v", err)
	}
}
