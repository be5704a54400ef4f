package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/firmware/probation"
)

// plainImage is what metadata says of a file.
type plainImage []byte

func (i plainImage) Name() string                         { return "image" }
func (i plainImage) Remote() string                       { return "image" }
func (i plainImage) Length() int64                        { return int64(len(i)) }
func (i plainImage) Hash(string) []byte                   { s := sha256.Sum256(i); return s[:] }
func (i plainImage) Open(path string) (*os.File, error)   { return os.Open(path) }
func (i plainImage) chunk(r delivery.Range) []byte        { return i[r.Offset : r.Offset+int64(r.Length)] }
func (f askerFunc) Ask(_ context.Context, b []byte) error { return f(b) }

type askerFunc func([]byte) error

// TestChunk: what the agent is sent comes to the download that is under way, and to none before and after.
func TestChunk(t *testing.T) {
	image := plainImage(bytes.Repeat([]byte("0123456789"), 10_000))
	began := time.Now()
	u := &Updater{o: Options{Look: time.Millisecond, Poll: time.Hour, Health: func() probation.Health { return probation.Health{} },
		Awake: func() time.Duration { return time.Since(began) }}}
	asker := askerFunc(func(b []byte) error {
		r, err := delivery.DecodeRequest(b)
		if err != nil {
			return err
		}
		go func() {
			for _, x := range r.Ranges {
				err := u.Chunk((&delivery.Chunk{File: r.File, Offset: x.Offset, Bytes: image.chunk(x)}).Encode())
				if err != nil && !errors.Is(err, delivery.ErrNotAsked) { // what was asked for twice may come after the end
					t.Error(err)
				}
			}
		}()
		return nil
	})
	d, err := delivery.New(delivery.Options{Dir: t.TempDir(), Image: image, Campaign: "c", Asker: asker, Reserve: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	any := (&delivery.Chunk{File: sha256.Sum256(image), Bytes: image[:10]}).Encode()
	if err := u.Chunk(any); !errors.Is(err, delivery.ErrNotAsked) {
		t.Errorf("before: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f, err := u.deliver(ctx, &Order{}, d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, image) {
		t.Errorf("%d bytes came: %v", len(got), err)
	}
	if err := u.Chunk(any); !errors.Is(err, delivery.ErrNotAsked) {
		t.Errorf("after: %v", err)
	}
}
