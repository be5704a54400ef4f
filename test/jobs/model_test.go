//go:build system

package jobs

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// What the jobs should find, computed from the rows that count, in order of time, without windows, watermarks or SQL.

// result is a record of an output topic: its key and its value's fields that are not in the key.
type result map[string]any

type results map[string]result // by the key's fields, joined with spaces

func key(parts ...string) string { return strings.Join(parts, " ") }

func iso(t time.Time) string { return t.Format("2006-01-02T15:04:05.999Z") }

// inOrder are the rows of a topic that count, by time.
func inOrder(rows []*row, topic string) []*row {
	var of []*row
	for _, r := range rows {
		if r.counted && r.topic() == topic {
			of = append(of, r)
		}
	}
	slices.SortStableFunc(of, func(a, b *row) int { return cmp.Compare(*a.Time, *b.Time) })
	return of
}

func minutesOf(rows []*row) results {
	all, sums := results{}, map[string]float64{}
	for _, r := range inOrder(rows, ".samples") {
		k, v := key(r.Tenant, r.Device, r.Name, iso(r.taken.Truncate(time.Minute))), *r.Value
		m := all[k]
		if m == nil {
			m = result{"unit": r.Unit, "count": 0., "min": v, "max": v}
			all[k] = m
		}
		sums[k] += v
		m["count"] = m["count"].(float64) + 1
		m["min"], m["max"], m["last"] = min(m["min"].(float64), v), max(m["max"].(float64), v), v
		m["avg"] = sums[k] / m["count"].(float64)
	}
	return all
}

// metresPerSecond is a row's speed, false where it is none.
func metresPerSecond(r *row) (float64, bool) {
	if !strings.HasSuffix(r.Name, "Vehicle.Speed") && !strings.HasSuffix(r.Name, ".VehicleSpeed") && !strings.HasSuffix(r.Name, ".fix.speed") {
		return 0, false
	}
	return *r.Value * map[string]float64{"m/s": 1, "km/h": 1 / 3.6, "kn": 1852. / 3600, "mph": 0.44704}[r.Unit], true
}

func tripsOf(rows []*row) results {
	type state struct {
		start, end  time.Time
		by          string
		metres, top map[string]float64 // by signal
		before      map[string]*row
		ignition    *float64
		driven      bool
	}
	vehicles := map[string]*state{}
	all := results{}
	end := func(device string, s *state) {
		if !s.driven {
			return
		}
		signal := "gps0.fix.speed"
		for name := range s.top {
			if name != "gps0.fix.speed" {
				signal = name
			}
		}
		all[key("acme", device, iso(s.start))] = result{"end": iso(s.end), "by": s.by, "distance_m": s.metres[signal], "top_speed_mps": s.top[signal]}
		s.driven, s.metres, s.top = false, map[string]float64{}, map[string]float64{}
	}
	for _, r := range inOrder(rows, ".samples") {
		s := vehicles[r.Device]
		if s == nil {
			s = &state{metres: map[string]float64{}, top: map[string]float64{}, before: map[string]*row{}, by: "speed"}
			vehicles[r.Device] = s
		}
		speed, isSpeed := metresPerSecond(r)
		if r.Name == "can0.Body.Ignition" {
			s.ignition, s.by = r.Value, "ignition"
		} else if !isSpeed {
			continue
		}
		before := s.before[r.Name]
		s.before[r.Name] = r
		if on := speed > 1 && s.ignition == nil || s.ignition != nil && *s.ignition > 0; !on {
			continue
		}
		if s.driven && r.taken.Sub(s.end) > 5*time.Minute {
			end(r.Device, s)
		}
		if !s.driven {
			s.start, s.driven = r.taken, true
		}
		s.end = r.taken
		if isSpeed {
			s.top[r.Name] = max(s.top[r.Name], speed)
			if before != nil && r.taken.Sub(before.taken) < 5*time.Minute {
				earlier, _ := metresPerSecond(before)
				s.metres[r.Name] += (speed + earlier) / 2 * r.taken.Sub(before.taken).Seconds()
			}
		}
	}
	for device, s := range vehicles {
		end(device, s)
	}
	return all
}

// metres between two places, by the angle between their vectors rather than by the job's formula.
func metres(latA, lonA, latB, lonB float64) float64 {
	vector := func(lat, lon float64) [3]float64 {
		lat, lon = lat*math.Pi/180, lon*math.Pi/180
		return [3]float64{math.Cos(lat) * math.Cos(lon), math.Cos(lat) * math.Sin(lon), math.Sin(lat)}
	}
	a, b := vector(latA, lonA), vector(latB, lonB)
	chord := math.Sqrt((a[0]-b[0])*(a[0]-b[0]) + (a[1]-b[1])*(a[1]-b[1]) + (a[2]-b[2])*(a[2]-b[2]))
	return 2 * 6371008.8 * math.Asin(chord/2)
}

func fencesOf(rows []*row) results {
	inside, all := map[string]bool{}, results{}
	for _, r := range inOrder(rows, ".positions") {
		d := metres(r.Latitude, r.Longitude, 48.1374, 11.5755)
		if r.Tenant != "acme" || d > 500 && d <= 550 {
			continue
		}
		if now := d <= 500; now != inside[r.Device] {
			inside[r.Device] = now
			all[key(r.Tenant, r.Device, r.Source, "depot", iso(r.taken))] = result{
				"event": map[bool]string{true: "enter", false: "leave"}[now], "latitude": r.Latitude, "longitude": r.Longitude, "distance_m": d}
		}
	}
	return all
}

// scoresOf are the last rows of each day: of the first when it is over, of the second at 02:00.
func scoresOf(rows []*row) results {
	type state struct {
		second         time.Time
		sum, n         float64
		before, change float64 // m/s, m/s²
		at             time.Time
	}
	all, vehicles := results{}, map[string]*state{}
	judge := func(device string, s *state) {
		speed := s.sum / s.n
		day := s.second.Format("2006-01-02")
		k := key("acme", device, day)
		score := all[k]
		if score == nil {
			as := clock(0, 0)
			if day != "2026-03-01" {
				as = clock(2, 0)
			}
			score = result{"as_of": iso(as), "distance_m": nil, "harsh_braking": 0., "harsh_acceleration": 0., "over_speed": 0.}
			all[k] = score
		}
		count := func(name string) { score[name] = score[name].(float64) + 1 }
		apart, change := s.second.Sub(s.at).Seconds(), 0.
		if s.at.IsZero() {
			apart = math.Inf(1)
		}
		if apart <= 60 {
			sofar, _ := score["distance_m"].(float64)
			score["distance_m"] = sofar + (speed+s.before)/2*apart
		}
		if apart <= 3 {
			change = (speed - s.before) / apart
		}
		if change <= -3.5 && s.change > -3.5 {
			count("harsh_braking")
		}
		if change >= 3.5 && s.change < 3.5 {
			count("harsh_acceleration")
		}
		if speed*3.6 > 130 && s.before*3.6 <= 130 {
			count("over_speed")
		}
		s.before, s.change, s.at = speed, change, s.second
	}
	for _, r := range inOrder(rows, ".samples") {
		speed, is := metresPerSecond(r)
		if !is || r.Name == "gps0.fix.speed" { // each vehicle has a better one
			continue
		}
		s := vehicles[r.Device]
		if s == nil {
			s = &state{}
			vehicles[r.Device] = s
		}
		if second := r.taken.Truncate(time.Second); second != s.second {
			if s.n > 0 {
				judge(r.Device, s)
			}
			s.second, s.sum, s.n = second, 0, 0
		}
		s.sum, s.n = s.sum+speed, s.n+1
	}
	for device, s := range vehicles {
		judge(device, s)
	}
	for _, score := range all {
		score["score"] = nil
		if d, _ := score["distance_m"].(float64); d >= 1000 {
			n := 2*(score["harsh_braking"].(float64)+score["harsh_acceleration"].(float64)) + 5*score["over_speed"].(float64)
			score["score"] = max(0, 100-n*100_000/d)
		}
	}
	return all
}
