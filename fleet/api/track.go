package api

import (
	"math"
	"time"
)

const (
	// trackBreak: where no position came for longer, a track is not joined.
	trackBreak = 10 * time.Minute
	// trackMost is how many points of a window are looked at: denser ones are first thinned by time.
	trackMost = 10_000
)

// Track is where a vehicle was, in columns. Times are Unix milliseconds.
type Track struct {
	Source   string    `json:"source"` // which receiver
	From     int64     `json:"from"`
	To       int64     `json:"to"`
	Total    int64     `json:"total"` // positions in the window, before thinning
	T        []int64   `json:"t"`
	Lat      []float64 `json:"lat"`
	Lon      []float64 `json:"lon"`
	Breaks   []int     `json:"breaks"` // indices at which a stretch begins that is not to be joined with what is before it
	Excluded Excluded  `json:"excluded"`
}

func (s *Server) track(q *request) (any, error) {
	id, err := q.id()
	if err != nil {
		return nil, err
	}
	p := q.parameters()
	most := p.number("points", 1000, maxPoints)
	source := p.text("source")
	w := p.window(s.o.Now(), 24*time.Hour, maxTrack)
	if err := p.done(); err != nil {
		return nil, err
	}
	a := Track{From: w.From.UnixMilli(), To: w.To.UnixMilli(), Breaks: []int{}}
	points, err := s.points(q, id, source, w, &a)
	if err != nil {
		return nil, err
	}
	points = thin(points, max(most, 2))
	a.T, a.Lat, a.Lon = make([]int64, len(points)), make([]float64, len(points)), make([]float64, len(points))
	for i, p := range points {
		a.T[i], a.Lat[i], a.Lon[i] = p.UnixNS/int64(time.Millisecond), round7(p.Latitude), round7(p.Longitude)
		if p.Begins {
			a.Breaks = append(a.Breaks, i)
		}
	}
	return a, nil
}

// points reads the window, at most about trackMost of it.
func (s *Server) points(q *request, id DeviceID, source string, w Window, a *Track) (points []Point, err error) {
	apart, last, kept := int64(w.To.Sub(w.From))/trackMost, int64(math.MinInt64), int64(0)
	a.Source, a.Excluded, err = s.o.Reader.Positions(q.Context(), id, source, w, func(p Point) error {
		a.Total++
		p.Begins = last != math.MinInt64 && p.UnixNS-last > int64(trackBreak)
		last = p.UnixNS
		if len(points) == 0 || p.Begins || p.UnixNS-kept >= apart {
			points, kept = append(points, p), p.UnixNS
		}
		return nil
	})
	return points, err
}

// round7 leaves 1 cm.
func round7(degrees float64) float64 { return math.Round(degrees*1e7) / 1e7 }
