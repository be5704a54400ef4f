package imu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// newLayout enables the channels that are collected, disables all others, and works out where each lies: in the order of
// their indices, each aligned to its own size.
func newLayout(dir string, ids IDs) (*layout, error) {
	scan := filepath.Join(dir, "scan_elements")
	entries, err := os.ReadDir(scan)
	if err != nil {
		return nil, err
	}
	wanted := map[string]int{} // index into channels, by name in sysfs
	for i, id := range ids {
		if id != 0 {
			wanted[channels[i].sysfs] = i
		}
	}
	if len(wanted) == 0 {
		return nil, errors.New("nothing of it is collected; see collect:")
	}
	type placed struct {
		index   int
		name    string
		element element
	}
	var list []placed
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), "_en")
		if !ok {
			continue
		}
		_, collected := wanted[name]
		if !collected && name != timestampChannel {
			if err := write(scan, e.Name(), "0"); err != nil {
				return nil, err
			}
			continue
		}
		if err := write(scan, e.Name(), "1"); err != nil {
			return nil, err
		}
		p := placed{name: name}
		text, err := read(scan, name+"_index")
		if err == nil {
			p.index, err = strconv.Atoi(text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s_index: %w", name, err)
		}
		if text, err = read(scan, name+"_type"); err == nil {
			p.element, err = parseType(text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s_type: %w", name, err)
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b placed) int { return a.index - b.index })
	l := &layout{}
	largest := 1
	for _, p := range list {
		e := p.element
		l.size = (l.size + e.bytes - 1) / e.bytes * e.bytes
		e.at = l.size
		l.size += e.bytes
		largest = max(largest, e.bytes)
		if p.name == timestampChannel {
			l.stamp = e
			continue
		}
		i := wanted[p.name]
		m := measured{element: e, id: ids[i]}
		if m.factor, m.shift, err = scaleOf(dir, i); err != nil {
			return nil, err
		}
		l.values = append(l.values, m)
	}
	l.size = (l.size + largest - 1) / largest * largest
	switch {
	case l.stamp.bytes != 8:
		return nil, errors.New("it has no stamps of 64 bits (in_timestamp)")
	case len(l.values) < len(wanted):
		return nil, fmt.Errorf("it has %d of the %d channels that are collected", len(l.values), len(wanted))
	}
	return l, nil
}

// parseType reads "le:s12/16>>4": byte order, sign, bits that count, bits that are stored, shift.
func parseType(text string) (e element, err error) {
	order, rest, ok := strings.Cut(text, ":")
	var sign byte
	var stored uint
	if ok && len(rest) > 0 {
		sign = rest[0]
		_, err = fmt.Sscanf(rest[1:], "%d/%d>>%d", &e.bits, &stored, &e.shift)
	}
	e.signed, e.bytes = sign == 's', int(stored/8)
	switch order {
	case "le":
		e.order = binary.LittleEndian
	case "be":
		e.order = binary.BigEndian
	}
	if !ok || err != nil || e.order == nil || sign != 's' && sign != 'u' || !slices.Contains([]uint{8, 16, 32, 64}, stored) ||
		e.bits == 0 || e.bits+e.shift > stored || strings.ContainsRune(rest, 'X') {
		return e, fmt.Errorf("%q is no layout that is known", text)
	}
	return e, nil
}

// scaleOf reads what a raw value of a channel is worth, in the signal's raw values.
func scaleOf(dir string, i int) (factor, shift float64, err error) {
	c := &channels[i]
	number := func(fallback float64, names ...string) (float64, error) {
		for _, name := range names {
			text, err := read(dir, name)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, err
			}
			v, err := strconv.ParseFloat(text, 64)
			if err != nil || v-v != 0 {
				return 0, fmt.Errorf("%s: %q is no number", name, text)
			}
			return v, nil
		}
		return fallback, nil
	}
	scale, err := number(1, c.sysfs+"_scale", c.scale)
	if err != nil {
		return 0, 0, err
	}
	shift, err = number(0, c.sysfs+"_offset", c.offset)
	return scale / c.quantum, shift, err
}
