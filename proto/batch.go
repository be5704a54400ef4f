package telemetrypb

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// BatchView is a batch whose checksum and format have been verified. Bytes and Body alias the input.
type BatchView struct {
	Envelope *Envelope
	Body     []byte
	Bytes    []byte
}

// AppendBatch seals samples into a batch and appends it to dst. The result never changes: it is stored as it is and
// sent byte for byte. Safe for use from several goroutines; one that seals often keeps an Encoder.
func AppendBatch(dst []byte, h *Head, samples []Sample) ([]byte, error) {
	e := encoders.Get().(*Encoder)
	defer encoders.Put(e)
	return e.AppendBatch(dst, h, samples)
}

// AppendBatch is the package's AppendBatch with this encoder's memory: it allocates nothing once that has grown.
func (e *Encoder) AppendBatch(dst []byte, h *Head, samples []Sample) ([]byte, error) {
	if err := h.check(); err != nil {
		return dst, err
	}
	body, err := e.AppendSamples(e.body[:0], samples)
	if err != nil {
		return dst, err
	}
	e.body = body
	c := content{codec: Codec_CODEC_COLUMNS_1, samples: len(samples)}
	c.first, c.last = e.timeRange()
	e.envelope = appendEnvelope(e.envelope[:0], h, &c)
	sealed, err := appendSealed(dst, e.envelope, e.body)
	if err != nil {
		return dst, err
	}
	return sealed, nil
}

// AppendControl seals records into a batch of the control lane; a lane of 0 in h reads as control. Its envelope
// carries no times: a record has its own.
func AppendControl(dst []byte, h *Head, r *Records) ([]byte, error) {
	head := *h
	if head.Lane == Lane_LANE_UNSPECIFIED {
		head.Lane = Lane_LANE_CONTROL
	}
	if err := head.check(); err != nil {
		return dst, err
	}
	if head.Lane != Lane_LANE_CONTROL {
		return dst, fmt.Errorf("records belong in the control lane, not in %s", LaneName(head.Lane))
	}
	if n := len(r.GetRecords()); n > MaxRecords {
		return dst, fmt.Errorf("%d records: %w: at most %d", n, ErrTooLarge, MaxRecords)
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return dst, fmt.Errorf("records: %w", err)
	}
	c := content{codec: Codec_CODEC_RECORDS, samples: len(r.GetRecords())}
	sealed, err := appendSealed(dst, appendEnvelope(nil, &head, &c), body)
	if err != nil {
		return dst, err
	}
	return sealed, nil
}

// OpenBatch verifies the checksum and the envelope of a batch. With ErrNewerFormat the view is whole: the checksum
// holds, and the batch can be kept under its name though its body cannot be read.
func OpenBatch(b []byte) (BatchView, error) {
	envelope, body, sum, err := splitBatch(b)
	if err != nil {
		return BatchView{}, err
	}
	if got := checksum(envelope, body); got != sum {
		return BatchView{}, fmt.Errorf("batch of %d bytes: %w: says %08x, is %08x", len(b), ErrChecksum, sum, got)
	}
	e, err := readEnvelope(envelope, sum)
	if e == nil {
		return BatchView{}, err
	}
	return BatchView{Envelope: e, Body: body, Bytes: b}, err
}

// Samples appends the batch's samples to dst: signals ascending, each in the order it was put in. Strings are copies;
// nothing of dst's new samples aliases the batch.
func (v BatchView) Samples(dst []Sample) ([]Sample, error) {
	if err := v.readable(Codec_CODEC_COLUMNS_1); err != nil {
		return dst, err
	}
	have := len(dst)
	dst, err := decodeSamples(dst, v.Body, int(min(v.Envelope.Samples, MaxSamples)))
	if err != nil {
		return dst[:have], err
	}
	first, last := timeRange(dst[have:])
	if n := len(dst) - have; uint64(n) != uint64(v.Envelope.Samples) || n > 0 && (first != v.Envelope.FirstNs || last != v.Envelope.LastNs()) {
		return dst[:have], fmt.Errorf("body: %w: %d samples of %d…%d ns, the envelope says %d of %d…%d", ErrMalformed,
			n, first, last, v.Envelope.Samples, v.Envelope.FirstNs, v.Envelope.LastNs())
	}
	return dst, nil
}

// Records reads the body of a control batch.
func (v BatchView) Records() (*Records, error) {
	if err := v.readable(Codec_CODEC_RECORDS); err != nil {
		return nil, err
	}
	// Counted before anything is allocated: an empty record costs two bytes here and a hundred in memory.
	count := 0
	for b := v.Body; len(b) > 0; count++ {
		_, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, fmt.Errorf("records: %w: %v", ErrMalformed, protowire.ParseError(n))
		}
		b = b[n:]
	}
	if count > MaxRecords || uint64(count) < uint64(v.Envelope.Samples) {
		return nil, fmt.Errorf("records: %w: %d in the body, %d in the envelope, at most %d", ErrMalformed, count, v.Envelope.Samples, MaxRecords)
	}
	r := new(Records)
	if err := proto.Unmarshal(v.Body, r); err != nil {
		return nil, fmt.Errorf("records: %w: %v", ErrMalformed, err)
	}
	if len(r.Records) != int(v.Envelope.Samples) {
		return nil, fmt.Errorf("records: %w: %d, the envelope says %d", ErrMalformed, len(r.Records), v.Envelope.Samples)
	}
	return r, nil
}

// readable says whether the body is of this codec and in clear.
func (v BatchView) readable(want Codec) error {
	switch {
	case v.Envelope == nil:
		return fmt.Errorf("batch: %w: not opened", ErrMalformed)
	case v.Envelope.MinReader > Format:
		return fmt.Errorf("batch for readers from %d: %w", v.Envelope.MinReader, ErrNewerFormat)
	case v.Envelope.Cipher != Cipher_CIPHER_NONE:
		return fmt.Errorf("body: cipher %d: %w", v.Envelope.Cipher, ErrNewerFormat)
	case v.Envelope.Codec > Codec_CODEC_COLUMNS_1:
		return fmt.Errorf("body: codec %d: %w", v.Envelope.Codec, ErrNewerFormat)
	case v.Envelope.Codec != want:
		return fmt.Errorf("body: %w: codec %d, not %d", ErrMalformed, v.Envelope.Codec, want)
	}
	return nil
}

// timeRange is the earliest and the latest time; 0, 0 of none.
func timeRange(samples []Sample) (first, last int64) {
	if len(samples) == 0 {
		return 0, 0
	}
	first, last = math.MaxInt64, math.MinInt64
	for i := range samples {
		first, last = min(first, samples[i].Time), max(last, samples[i].Time)
	}
	return first, last
}
