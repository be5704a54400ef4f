package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// unfinished is how many catalogues a device may have half sent; the parts of the others go.
const unfinished = 4

func (t *tx) Catalogue(device int64, short [16]byte) (*Catalogue, error) {
	key := catalogueKey{device, short}
	if c := t.w.catalogues[key]; c != nil {
		return c, nil
	}
	var row int64
	var hash, data []byte
	found, err := t.one("SELECT id, hash, data FROM catalogues WHERE device = ? AND short = ?", []any{device, short[:]}, &row, &hash, &data)
	if err != nil || !found {
		return nil, err
	}
	spec, err := telemetrypb.DecodeCatalogue(data)
	if err != nil {
		return nil, fmt.Errorf("catalogue %x as stored: %w", short, err)
	}
	c := newCatalogue(row, hash, spec)
	s, err := t.w.statement(t.ctx, "SELECT id, number FROM signals WHERE catalogue = ?")
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(t.ctx, row)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id, number int64
		if err := rows.Scan(&id, &number); err != nil {
			return nil, err
		}
		c.place(uint32(number), id)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	t.remember(key, c)
	return c, nil
}

func newCatalogue(row int64, hash []byte, spec *telemetrypb.Catalogue) *Catalogue {
	c := &Catalogue{Row: row, ByID: map[uint32]Signal{}, ByName: map[string]Signal{}}
	copy(c.Hash[:], hash)
	for _, s := range spec.GetSignals() {
		c.ByID[s.GetId()] = Signal{Spec: s}
	}
	return c
}

// place notes the row of a signal.
func (c *Catalogue) place(number uint32, row int64) {
	s, ok := c.ByID[number]
	if !ok {
		return
	}
	s.Row = row
	c.ByID[number], c.ByName[s.Spec.GetName()] = s, s
}

func (t *tx) remember(key catalogueKey, c *Catalogue) {
	if len(t.w.catalogues) >= cachedCatalogues || t.w.signals+len(c.ByID) > cachedSignals {
		t.w.catalogues, t.w.signals = map[catalogueKey]*Catalogue{}, 0
	}
	t.w.catalogues[key] = c
	t.w.signals += len(c.ByID)
}

func (t *tx) PutPart(device int64, p *telemetrypb.CataloguePart, now time.Time) (*Catalogue, error) {
	if len(p.GetHash()) != 32 {
		return nil, fmt.Errorf("%w: a hash of %d bytes", ErrParts, len(p.GetHash()))
	}
	var short [16]byte
	copy(short[:], p.Hash)
	if known, err := t.Catalogue(device, short); err != nil || known != nil {
		return nil, err // what is known has no use for parts
	}
	// A part's shape is checked by the assembler's own rules before it takes room.
	if _, _, err := new(telemetrypb.CatalogueAssembler).Add(p); err != nil && p.GetCount() != 1 {
		return nil, errors.Join(ErrParts, err)
	}
	if p.GetCount() > 1 {
		// Parts are read only when they may be the whole: each new one would cost as much as all before it.
		result, err := t.exec("INSERT OR IGNORE INTO catalogue_parts (device, hash, idx, count, data) VALUES (?, ?, ?, ?, ?)",
			device, p.Hash, int64(p.Index), int64(p.Count), notNil(p.Data))
		if err != nil {
			return nil, err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return nil, err
		}
		var have int64
		if _, err := t.one("SELECT count(*) FROM catalogue_parts WHERE device = ? AND hash = ?", []any{device, p.Hash}, &have); err != nil {
			return nil, err
		}
		if uint64(have) < uint64(p.Count) {
			return nil, t.dropOldParts(device, p.Hash)
		}
	}
	parts, err := t.parts(device, p)
	if err != nil {
		return nil, err
	}
	if _, err := t.exec("DELETE FROM catalogue_parts WHERE device = ? AND hash = ?", device, p.Hash); err != nil {
		return nil, err
	}
	var assembler telemetrypb.CatalogueAssembler
	var spec *telemetrypb.Catalogue
	for _, part := range parts {
		if spec, _, err = assembler.Add(part); err != nil {
			return nil, errors.Join(ErrParts, err)
		}
	}
	if spec == nil {
		return nil, fmt.Errorf("%w: parts of different counts", ErrParts)
	}
	return t.putCatalogue(device, p.Hash, parts, spec, now)
}

// parts lists the parts there are of p's catalogue, p among them.
func (t *tx) parts(device int64, p *telemetrypb.CataloguePart) ([]*telemetrypb.CataloguePart, error) {
	if p.GetCount() == 1 {
		return []*telemetrypb.CataloguePart{p}, nil
	}
	s, err := t.w.statement(t.ctx, "SELECT idx, count, data FROM catalogue_parts WHERE device = ? AND hash = ? ORDER BY idx")
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(t.ctx, device, p.Hash)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []*telemetrypb.CataloguePart
	for rows.Next() {
		part := &telemetrypb.CataloguePart{Hash: p.Hash}
		if err := rows.Scan(&part.Index, &part.Count, &part.Data); err != nil {
			return nil, err
		}
		list = append(list, part)
	}
	return list, rows.Err()
}

// dropOldParts bounds what half-sent catalogues take.
func (t *tx) dropOldParts(device int64, keep []byte) error {
	_, err := t.exec(`DELETE FROM catalogue_parts WHERE device = ?1 AND hash <> ?2 AND hash IN (
	    SELECT DISTINCT hash FROM catalogue_parts WHERE device = ?1 AND hash <> ?2 ORDER BY hash LIMIT -1 OFFSET ?3)`,
		device, keep, int64(unfinished-1))
	return err
}

func (t *tx) putCatalogue(device int64, hash []byte, parts []*telemetrypb.CataloguePart, spec *telemetrypb.Catalogue, now time.Time) (*Catalogue, error) {
	if err := CheckNames(spec); err != nil {
		return nil, err
	}
	if err := t.roomForSignals(device, int64(len(spec.GetSignals()))); err != nil {
		return nil, err
	}
	var data []byte
	for _, p := range parts {
		data = append(data, p.GetData()...)
	}
	short := [16]byte(hash[:16])
	var row int64
	if _, err := t.one("INSERT INTO catalogues (device, hash, short, data, received) VALUES (?, ?, ?, ?, ?) RETURNING id",
		[]any{device, slices.Clone(hash), short[:], notNil(data), now.UnixNano()}, &row); err != nil {
		return nil, fmt.Errorf("catalogue %x: %w", short, err)
	}
	c := newCatalogue(row, hash, spec)
	for _, s := range spec.GetSignals() {
		labels := ""
		if len(s.GetLabels()) > 0 {
			m := map[string]string{}
			for _, l := range s.Labels {
				m[fmt.Sprint(l.GetValue())] = l.GetText()
			}
			text, err := json.Marshal(m)
			if err != nil {
				return nil, err
			}
			labels = string(text)
		}
		var id int64
		if _, err := t.one(`INSERT INTO signals (device, catalogue, number, name, unit, scale, offset, type, labels, source, message)
		    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
			[]any{device, row, int64(s.GetId()), s.GetName(), s.GetUnit(), finite(s.GetScale()), finite(s.GetOffset()), int64(s.GetType()), labels,
				s.GetSource(), s.GetMessage()}, &id); err != nil {
			return nil, fmt.Errorf("signal %s: %w", s.GetName(), err)
		}
		c.place(s.GetId(), id)
	}
	t.remember(catalogueKey{device, short}, c)
	return c, nil
}

// finite keeps a NaN, which SQLite takes for NULL, out of a NOT NULL column; the catalogue's bytes have the truth.
func finite(f float64) float64 {
	if f != f {
		return 0
	}
	return f
}

func (t *tx) NamedSignal(device int64, name, unit string) (int64, error) {
	var id int64
	found, err := t.one("SELECT id FROM signals WHERE device = ? AND name = ? AND unit = ? AND catalogue = 0", []any{device, name, unit}, &id)
	if err != nil || found {
		return id, err
	}
	if err := CheckName(name); err != nil {
		return 0, err
	}
	if err := t.roomForSignals(device, 1); err != nil {
		return 0, err
	}
	_, err = t.one(`INSERT INTO signals (device, catalogue, number, name, unit, scale, offset, type, labels, source, message)
	    VALUES (?, 0, 0, ?, ?, 1, 0, 0, '', '', '') RETURNING id`, []any{device, name, unit}, &id)
	return id, err
}
