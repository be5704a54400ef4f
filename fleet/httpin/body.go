package httpin

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// zstdWindow bounds what a zstd frame may make its reader keep. RFC 8878 §3.1.1.1.2 recommends to support 8 MiB; HTTP's
// own limit is the same (RFC 9659).
const zstdWindow = 8 << 20

// expandAtOnce bounds the decompressors at work, which keep a window each.
const expandAtOnce = 4

var (
	errTooLarge = errors.New("too large")
	errFull     = errors.New("too many bytes of requests are held")
)

// metered counts what is read against what one body and all bodies together may hold.
type metered struct {
	r     io.Reader
	held  *shares
	who   string
	limit int64 // of this body
	have  int64
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.have += int64(n)
	if !m.held.hold(m.who, int64(n)) {
		return n, errFull
	}
	if m.have > m.limit {
		return n, fmt.Errorf("%w: more than %d bytes", errTooLarge, m.limit)
	}
	return n, err
}

func (m *metered) release() { _ = m.held.hold(m.who, -m.have) }

// body reads a request's body, decompressed. release gives back its room.
func (s *Server) body(w http.ResponseWriter, r *http.Request, who string) (body []byte, release func(), err error) {
	encoding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding")))
	switch encoding {
	case "", "identity", "gzip", "x-gzip", "zstd":
	default:
		return nil, func() {}, refuse(http.StatusUnsupportedMediaType, "Content-Encoding %.40q: want gzip, zstd or none", encoding)
	}
	m := &metered{r: http.MaxBytesReader(w, r.Body, s.o.MaxBody), held: s.held, who: who, limit: s.o.MaxBody}
	body, err = io.ReadAll(m)
	if err != nil || encoding == "" || encoding == "identity" {
		return body, m.release, bodyProblem(err)
	}
	defer m.release()
	// Only what has wholly come is decompressed: a slow client holds none of the few decompressors.
	select {
	case s.expanding <- struct{}{}:
		defer func() { <-s.expanding }()
	case <-r.Context().Done():
		return nil, func() {}, bodyProblem(r.Context().Err())
	}
	d := &metered{held: s.held, who: who, limit: s.o.MaxDecompressed}
	if encoding == "zstd" {
		z, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, func() {}, bodyProblem(fmt.Errorf("zstd: %w", err))
		}
		defer z.Close()
		d.r = z
	} else {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, func() {}, bodyProblem(fmt.Errorf("gzip: %w", err))
		}
		d.r = z
	}
	body, err = io.ReadAll(d)
	return body, d.release, bodyProblem(err)
}

// bodyProblem is what a client hears of a body that could not be read.
func bodyProblem(err error) error {
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return refuse(http.StatusRequestEntityTooLarge, "the body has more than %d bytes; send fewer batches at a time", large.Limit)
	case errors.Is(err, errTooLarge), errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return refuse(http.StatusRequestEntityTooLarge, "the body is too large: %v", err)
	case errors.Is(err, errFull):
		return busy(http.StatusServiceUnavailable, 0, "%v; send again", err)
	}
	return refuse(http.StatusBadRequest, "the body cannot be read: %v", err)
}
