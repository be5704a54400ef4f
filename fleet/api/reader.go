package api

import (
	"context"
	"errors"
	"time"
)

// ErrNotFound: there is no such device.
var ErrNotFound = errors.New("there is no such device")

// DeviceID names a vehicle.
type DeviceID struct {
	Tenant string `json:"tenant"`
	Device string `json:"device"`
}

// Window is From ≤ time < To.
type Window struct{ From, To time.Time }

// Page asks for a part of a list: what follows After, at most Limit. After is the Next of the page before; its meaning is the store's.
type Page struct {
	After string
	Limit int
}

// DeviceQuery says which devices are wanted; an empty field does not restrict.
type DeviceQuery struct {
	Tenant string
	Search string    // part of the device's name, upper and lower case alike
	Online *bool     // as the last status said
	Since  time.Time // heard of after this instant
	Now    time.Time // positions and last values of later than this are not believed; required
	After  DeviceID  // in the order of (tenant, device)
	Limit  int
}

// SignalQuery likewise.
type SignalQuery struct {
	Search string // part of the name
	Now    time.Time
	After  string // name
	Limit  int
	Last   bool // with the last value
}

// LedgerQuery restricts gaps, losses, parked batches and dead letters; an empty field does not.
type LedgerQuery struct {
	Tenant string
	Device string
	Page
}

// Reader is what the API needs of a store. All of it reads what is committed, and may be called from several goroutines.
// Lists of pages are as long as asked for, or end; next is empty at the end.
type Reader interface {
	// Counts is what the store holds of a tenant; empty: of all.
	Counts(ctx context.Context, tenant string) (Counts, error)
	// Devices lists devices by (tenant, device), each with its latest position.
	Devices(ctx context.Context, q DeviceQuery) ([]Device, error)
	// Device tells all of one, or ErrNotFound.
	Device(ctx context.Context, id DeviceID, now time.Time) (*DeviceDetail, error)
	// Signals lists the names under which a device delivered, ascending.
	Signals(ctx context.Context, id DeviceID, q SignalQuery) ([]Signal, error)
	// Positions calls f for each dated position of one receiver in order of time; which receiver it is, it returns. Its
	// positions that are suspect or of which the time is too uncertain are counted in place of handed over.
	Positions(ctx context.Context, id DeviceID, source string, w Window, f func(Point) error) (from string, left Excluded, err error)
	// Buckets sums a signal up over stretches of width, which begin at w.From; empty ones are left out.
	Buckets(ctx context.Context, id DeviceID, signal string, w Window, width time.Duration) ([]Bucket, error)
	// Events lists samples of the event lane, the newest first and those of unknown time last.
	Events(ctx context.Context, id DeviceID, w Window, p Page) (list []Event, next string, err error)
	Gaps(ctx context.Context, q LedgerQuery) (list []Gap, next string, err error)
	Losses(ctx context.Context, q LedgerQuery) (list []Loss, next string, err error)
	ParkedBatches(ctx context.Context, q LedgerQuery) (list []Parked, next string, err error)
	Letters(ctx context.Context, q LedgerQuery) (list []DeadLetter, next string, err error)
}

// Eraser takes out of a store what a device told, and leaves the keys by which a batch that is sent again is known.
type Eraser interface {
	// Erase returns ErrNotFound where there is no such device. After a failure it is to be called again: part of the
	// contents may be gone already.
	Erase(ctx context.Context, id DeviceID) (Erased, error)
}

// ErrCursor: Page.After is none that this store gave.
var ErrCursor = errors.New("the cursor is not one that was answered here")
