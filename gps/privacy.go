package gps

import "math"

// Privacy is how much of a position leaves the package that reads it. The zero value lets all of it.
type Privacy struct {
	Off  bool    // no position, no altitude
	Grid float64 // m: the middle of a cell of this size, and no altitude; 0: the position as it is
}

// metresPerDegree of latitude, rounded down: a cell is not smaller than it is said to be.
const metresPerDegree = 110_500

// Apply takes out of a fix what is not to leave. Mode, speed, track, time, satellites and errors stay; with the position
// goes what would narrow it: the altitude and the geoid's separation.
func (p Privacy) Apply(f *Fix) {
	if !p.Off && p.Grid <= 0 {
		return
	}
	if f.Valid() {
		f.Fields |= PositionWithheld
	}
	f.Fields &^= HasAltitude | HasSeparation | HasErrorVertical
	f.Altitude, f.Separation, f.ErrorAltitude = 0, 0, 0
	if p.Off {
		f.Fields &^= HasPosition
		f.Latitude, f.Longitude = 0, 0
		return
	}
	if f.Has(HasPosition) {
		f.Latitude, f.Longitude = gridCell(f.Latitude, f.Longitude, p.Grid)
	}
}

// gridCell gives the middle of the cell that a position lies in. Rows are size high; a row's cells are size wide in its
// middle, made a little wider so that a whole number of them goes around the earth.
func gridCell(latitude, longitude int64, size float64) (int64, int64) {
	height := size / metresPerDegree * nanoDegrees
	middle := (math.Floor(float64(latitude)/height) + 0.5) * height
	middle = min(max(middle, -90*nanoDegrees), 90*nanoDegrees)
	around := 360 * metresPerDegree * math.Cos(middle/nanoDegrees*math.Pi/180)
	cells := max(math.Floor(around/size), 1)
	width := 360 * nanoDegrees / cells
	column := math.Floor((float64(longitude) + 180*nanoDegrees) / width)
	column = min(column, cells-1) // 180° itself is in the last one
	east := (column+0.5)*width - 180*nanoDegrees
	return int64(math.Round(middle)), int64(math.Round(east))
}
