package trust

import (
	"fmt"
	"hash/crc32"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/internal/durable"
)

// ReferenceOptions say where a vehicle has its time from.
type ReferenceOptions struct {
	Path   string                   // the file that keeps the time of the last verification
	Built  time.Time                // of the running software: now is not before it; zero is not known
	Clock  func() (time.Time, bool) // the clock, and whether GPS or a time server has set it; not synced, it counts for nothing
	Logger *slog.Logger
}

// Reference is the time against which metadata expires: the latest of when the software was built, when metadata was
// last verified whole, and the clock if it is synced. So a clock in 1970 makes nothing valid that had expired before, and
// one far in the future that nobody set makes nothing expire.
//
// The kept time moves only to a moment at which the whole of both repositories' metadata was valid. It is so never
// later than the earliest expiry in it, the roots' (whose keys are offline) among them: a wrong clock, even one that says it is
// synced, cannot push it beyond what the next metadata, which expires later, allows.
//
// It is safe for use by several goroutines.
type Reference struct {
	o    ReferenceOptions
	mu   sync.Mutex
	last time.Time // guarded by mu; durable
}

// OpenReference reads what was kept. A damaged file counts as none, with a warning: the time falls back to the build's.
func OpenReference(o ReferenceOptions) (*Reference, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Reference{o: o}
	data, err := readSmall(o.Path)
	if err != nil {
		return nil, fmt.Errorf("time of the last verification: %w", err)
	}
	if data == nil {
		return r, nil
	}
	if r.last, err = parseReference(data); err != nil {
		o.Logger.Warn("the time of the last verification is not readable, it counts as the build's", "file", o.Path, "error", err)
	}
	return r, nil
}

// Now is the reference time.
func (r *Reference) Now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.o.Built
	if r.last.After(now) {
		now = r.last
	}
	if wall, synced := r.o.Clock(); synced && wall.After(now) {
		now = wall
	}
	return now.UTC()
}

// confirm keeps a moment at which everything was valid.
func (r *Reference) confirm(at time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !at.After(r.last) {
		return nil
	}
	if err := durable.Write(r.o.Path, formatReference(at), 0o644); err != nil {
		return &refusal{Storage, fmt.Errorf("time of the last verification: %w", err)}
	}
	r.last = at
	return nil
}

// A line with the time and its checksum, so that a flipped bit does not become a year.
func formatReference(at time.Time) []byte {
	text := at.UTC().Format(time.RFC3339Nano)
	return fmt.Appendf(nil, "%s %08x\n", text, crc32.ChecksumIEEE([]byte(text)))
}

func parseReference(data []byte) (time.Time, error) {
	text, sum, ok := strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	if !ok || sum != fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(text))) {
		return time.Time{}, fmt.Errorf("%.60q is no time with its checksum", data)
	}
	return time.Parse(time.RFC3339Nano, text)
}
