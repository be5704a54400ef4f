package store

import (
	"context"
	"database/sql"
	"errors"
)

// sampleRows is how many samples one INSERT carries: enough that the cost of a statement no longer shows, few enough
// for SQLite's default of at most 32,766 parameters by far.
const sampleRows = 64

const sampleColumns = 11

// writer is the one connection that writes, with its prepared statements and its cache. SQLite.write guards it.
type writer struct {
	conn       *sql.Conn
	prepared   map[string]*sql.Stmt
	catalogues map[catalogueKey]*Catalogue // of committed and of this transaction; dropped at every roll-back
	devices    map[deviceKey]int64         // likewise
	copied     map[laneKey]*Ranges         // likewise: the numbers that thinned copies stand for; nil: not read yet
	usage      map[int64]*usage            // likewise, by device: what is limited
	tenants    map[string]int64            // likewise: devices of a tenant
	signals    int                         // in catalogues
	letters    int64                       // likewise: dead letters; -1: not read yet
	retimed    Retiming                    // the last one that was given out
}

type catalogueKey struct {
	device int64
	short  [16]byte
}

type deviceKey struct{ tenant, device string }

// cachedCatalogues bounds the cache; a fleet has few catalogues a device, and many devices.
const cachedCatalogues = 256

// cachedDevices likewise.
const cachedDevices = 1 << 16

// cachedSignals bounds the cache of catalogues too: they may be large. About 100 MB.
const cachedSignals = 1 << 18

// cachedUsages likewise; a device with all its epochs takes about 200 KB, and then there are few such.
const cachedUsages = 1 << 12

func newWriter(ctx context.Context, db *sql.DB) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{conn: conn, prepared: map[string]*sql.Stmt{}}
	w.forget()
	return w, nil
}

// forget empties the caches.
func (w *writer) forget() {
	w.catalogues, w.signals = map[catalogueKey]*Catalogue{}, 0
	w.usage, w.tenants = map[int64]*usage{}, map[string]int64{}
	w.devices = map[deviceKey]int64{}
	w.copied = nil
	w.letters = -1
}

func (w *writer) close() error {
	var errs []error
	for _, s := range w.prepared {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, w.conn.Close())...)
}

// statement prepares a query once.
func (w *writer) statement(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := w.prepared[query]; s != nil {
		return s, nil
	}
	s, err := w.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	w.prepared[query] = s
	return s, nil
}

// exec runs a statement that is not worth preparing.
func (w *writer) exec(ctx context.Context, query string) error {
	_, err := w.conn.ExecContext(ctx, query)
	return err
}
