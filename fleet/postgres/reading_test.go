//go:build system

package postgres

import (
	"context"
	"crypto/rand"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/test/readtest"
)

// TestReading: the API's questions have the same answers as SQLite's.
func TestReading(t *testing.T) {
	p := quick(t)
	for name, test := range map[string]func(*testing.T, readtest.Asked){
		"LatestPosition": readtest.LatestPosition,
		"Erasing":        readtest.Erasing,
		"ErasingSQLite": func(t *testing.T, _ readtest.Asked) {
			lite, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "a.db"), store.Options{Rand: rand.Reader})
			if err != nil {
				t.Fatal(err)
			}
			defer lite.Close()
			readtest.Erasing(t, lite)
		},
		"SameAnswers": func(t *testing.T, s readtest.Asked) {
			lite, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "a.db"), store.Options{Rand: rand.Reader})
			if err != nil {
				t.Fatal(err)
			}
			defer lite.Close()
			readtest.FillFleet(t, lite, readtest.Now)
			readtest.FillFleet(t, s, readtest.Now)
			want, got := readtest.AskFleet(t, lite.Reads(), readtest.Now), readtest.AskFleet(t, s.Reads(), readtest.Now)
			if diff := readtest.Differ(want, got); diff != "" {
				t.Error(diff)
			}
			t.Logf("%d answers", len(want))
			survey(t, s.(*Store))
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := fresh(t, p)
			s := open(t, url, Options{Rand: rand.Reader})
			test(t, s)
			check(t, url)
		})
	}
}

// survey: what the database counts is what the lists say.
func survey(t *testing.T, s *Store) {
	ctx := context.Background()
	devices, err := s.Devices(ctx)
	if err != nil {
		t.Fatal(err)
	}
	losses, err := s.Losses(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, since := range []time.Time{readtest.Now, readtest.Now.Add(time.Second)} {
		states, lost := map[string]int{}, map[[2]string]float64{}
		for _, d := range devices {
			switch {
			case d.Online == nil:
				states["unknown"]++
			case !*d.Online:
				states["offline"]++
			case d.LastSeen.Before(since):
				states["silent"]++
			default:
				states["online"]++
			}
		}
		for _, l := range losses {
			lost[[2]string{l.Reason, l.Unit}] += float64(l.Count)
		}
		gotStates, gotLost, err := s.Survey(ctx, since)
		if err != nil || !maps.Equal(gotStates, states) || !maps.Equal(gotLost, lost) || len(lost) == 0 || len(states) < 2 {
			t.Errorf("%v %v %v, want %v %v", gotStates, gotLost, err, states, lost)
		}
	}
}
