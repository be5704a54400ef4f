package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// unfinished is how many catalogues a device may have half sent; the parts of the others go.
const unfinished = 4

// cachedCatalogues bounds the memory for catalogues, which never change once they are committed.
const cachedCatalogues = 1024

type catalogueKey struct {
	device int64
	short  [16]byte
}

func (t *tx) Catalogue(device int64, short [16]byte) (*store.Catalogue, error) {
	if _, err := t.hold(device); err != nil {
		return nil, err // a device that is gone has none
	}
	key := catalogueKey{device, short}
	if c := t.catalogues[key]; c != nil {
		return c, nil
	}
	t.s.mu.Lock()
	c := t.s.catalogues[key]
	t.s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	var row int64
	var hash, data []byte
	found, err := t.one("SELECT id, hash, data FROM catalogues WHERE device = $1 AND short = $2", []any{device, short}, &row, &hash, &data)
	if err != nil || !found {
		return nil, err
	}
	spec, err := telemetrypb.DecodeCatalogue(data)
	if err != nil {
		return nil, fmt.Errorf("catalogue %x as stored: %w", short, err)
	}
	t.forgetRoles(device) // another process may have learned it
	c = newCatalogue(row, hash, spec)
	var id, number int64
	if err := t.each("SELECT id, number FROM signals WHERE catalogue = $1", []any{row}, []any{&id, &number}, func() error {
		place(c, uint32(number), id)
		return nil
	}); err != nil {
		return nil, err
	}
	t.catalogues[key] = c
	return c, nil
}

func newCatalogue(row int64, hash []byte, spec *telemetrypb.Catalogue) *store.Catalogue {
	c := &store.Catalogue{Row: row, ByID: map[uint32]store.Signal{}, ByName: map[string]store.Signal{}}
	copy(c.Hash[:], hash)
	for _, s := range spec.GetSignals() {
		c.ByID[s.GetId()] = store.Signal{Spec: s}
	}
	return c
}

// place notes the row of a signal.
func place(c *store.Catalogue, number uint32, row int64) {
	s, ok := c.ByID[number]
	if !ok {
		return
	}
	s.Row = row
	c.ByID[number], c.ByName[s.Spec.GetName()] = s, s
}

func (t *tx) PutPart(device int64, p *telemetrypb.CataloguePart, now time.Time) (*store.Catalogue, error) {
	if len(p.GetHash()) != 32 {
		return nil, fmt.Errorf("%w: a hash of %d bytes", store.ErrParts, len(p.GetHash()))
	}
	if known, err := t.Catalogue(device, [16]byte(p.Hash[:16])); err != nil || known != nil {
		return nil, err // what is known has no use for parts
	}
	// A part's shape is checked by the assembler's own rules before it takes room.
	if _, _, err := new(telemetrypb.CatalogueAssembler).Add(p); err != nil && p.GetCount() != 1 {
		return nil, errors.Join(store.ErrParts, err)
	}
	if p.GetCount() > 1 {
		// Parts are read only when they may be the whole: each new one would cost as much as all before it.
		n, err := t.exec("INSERT INTO catalogue_parts (device, hash, idx, count, data) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
			device, p.Hash, int64(p.Index), int64(p.Count), notNil(p.Data))
		if err != nil || n == 0 {
			return nil, err
		}
		var have int64
		if _, err := t.one("SELECT count(*) FROM catalogue_parts WHERE device = $1 AND hash = $2", []any{device, p.Hash}, &have); err != nil {
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
	if _, err := t.exec("DELETE FROM catalogue_parts WHERE device = $1 AND hash = $2", device, p.Hash); err != nil {
		return nil, err
	}
	var assembler telemetrypb.CatalogueAssembler
	var spec *telemetrypb.Catalogue
	for _, part := range parts {
		if spec, _, err = assembler.Add(part); err != nil {
			return nil, errors.Join(store.ErrParts, err)
		}
	}
	if spec == nil {
		return nil, fmt.Errorf("%w: parts of different counts", store.ErrParts)
	}
	return t.putCatalogue(device, p.Hash, parts, spec, now)
}

// parts lists the parts there are of p's catalogue, p among them.
func (t *tx) parts(device int64, p *telemetrypb.CataloguePart) (list []*telemetrypb.CataloguePart, err error) {
	if p.GetCount() == 1 {
		return []*telemetrypb.CataloguePart{p}, nil
	}
	var index, count int64
	var data []byte
	err = t.each("SELECT idx, count, data FROM catalogue_parts WHERE device = $1 AND hash = $2 ORDER BY idx", []any{device, p.Hash},
		[]any{&index, &count, &data}, func() error {
			list = append(list, &telemetrypb.CataloguePart{Hash: p.Hash, Index: uint32(index), Count: uint32(count), Data: slices.Clone(data)})
			return nil
		})
	return list, err
}

// dropOldParts bounds what half-sent catalogues take.
func (t *tx) dropOldParts(device int64, keep []byte) error {
	_, err := t.exec(`DELETE FROM catalogue_parts WHERE device = $1 AND hash <> $2 AND hash IN (
	    SELECT DISTINCT hash FROM catalogue_parts WHERE device = $1 AND hash <> $2 ORDER BY hash OFFSET $3)`, device, keep, unfinished-1)
	return err
}

const insertSignal = `INSERT INTO signals (device, catalogue, number, name, unit, scale, "offset", type, labels, source, message)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id`

func (t *tx) putCatalogue(device int64, hash []byte, parts []*telemetrypb.CataloguePart, spec *telemetrypb.Catalogue, now time.Time) (*store.Catalogue, error) {
	if err := store.CheckNames(spec); err != nil {
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
	if _, err := t.one("INSERT INTO catalogues (device, hash, short, data, received) VALUES ($1, $2, $3, $4, $5) RETURNING id",
		[]any{device, hash, short, notNil(data), now}, &row); err != nil {
		return nil, fmt.Errorf("catalogue %x: %w", short, err)
	}
	c := newCatalogue(row, hash, spec)
	batch := &pgx.Batch{}
	for _, s := range spec.GetSignals() {
		var labels *string // NULL: none
		if len(s.GetLabels()) > 0 {
			m := map[string]string{}
			for _, l := range s.Labels {
				m[fmt.Sprint(l.GetValue())] = clean(l.GetText())
			}
			text, err := json.Marshal(m)
			if err != nil {
				return nil, err
			}
			labels = new(string)
			*labels = string(text)
		}
		batch.Queue(insertSignal, device, row, int64(s.GetId()), clean(s.GetName()), clean(s.GetUnit()), s.GetScale(), s.GetOffset(), int32(s.GetType()), labels,
			clean(s.GetSource()), clean(s.GetMessage())).QueryRow(func(r pgx.Row) error {
			var id int64
			if err := r.Scan(&id); err != nil {
				return fmt.Errorf("signal %s: %w", s.GetName(), err)
			}
			place(c, s.GetId(), id)
			return nil
		})
	}
	if err := t.conn.SendBatch(t.ctx, batch).Close(); err != nil {
		return nil, t.fail(fmt.Errorf("catalogue %x: %w", short, err))
	}
	for _, s := range spec.GetSignals() {
		if err := t.learnRole(device, c.ByID[s.GetId()].Row, clean(s.GetName()), clean(s.GetUnit())); err != nil {
			return nil, err
		}
	}
	t.catalogues[catalogueKey{device, short}] = c
	return c, nil
}

func (t *tx) NamedSignal(device int64, name, unit string) (int64, error) {
	if _, err := t.hold(device); err != nil {
		return 0, err
	}
	name, unit = clean(name), clean(unit)
	var id int64
	found, err := t.one("SELECT id FROM signals WHERE device = $1 AND name = $2 AND unit = $3 AND catalogue = 0", []any{device, name, unit}, &id)
	if err != nil || found {
		if role, _, _ := api.RoleOf(name); found && role != "" {
			if known, err := t.rolesOf(device); err != nil {
				return 0, err
			} else if _, ok := known.of(id); !ok {
				t.forgetRoles(device) // another process has learned it
			}
		}
		return id, err
	}
	if err := store.CheckName(name); err != nil {
		return 0, err
	}
	if err := t.roomForSignals(device, 1); err != nil {
		return 0, err
	}
	if _, err = t.one(insertSignal, []any{device, 0, 0, name, unit, 1.0, 0.0, 0, nil, "", ""}, &id); err != nil {
		return 0, err
	}
	return id, t.learnRole(device, id, name, unit)
}
