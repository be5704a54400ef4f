package telemetrypb

import (
	"fmt"
	"strings"
)

// ReasonConflict begins the reason of a rejected batch whose name the store has given to other bytes: a vehicle's queue was
// put back to an earlier state, or two vehicles share an identity. What the store has stands; the vehicle begins a new
// epoch, in which what was rejected is named anew (Rename).
const ReasonConflict = "conflict"

// IsConflict says whether a rejection means that.
func IsConflict(reason string) bool { return strings.HasPrefix(reason, ReasonConflict) }

// Rename seals a batch's body under another name: everything but epoch and seq stays. A thinned copy cannot have another: the
// numbers that it supersedes are those of its own epoch.
func Rename(dst, batch []byte, epoch, seq uint64) ([]byte, error) {
	v, err := OpenBatch(batch)
	if err != nil {
		return dst, err
	}
	e := v.Envelope
	if e.GetCipher() != Cipher_CIPHER_NONE {
		return dst, fmt.Errorf("batch %d: %w: its body is sealed for its name", e.GetSeq(), ErrMalformed)
	}
	if len(e.GetSupersedes()) > 0 {
		return dst, fmt.Errorf("batch %d: %w: it stands for others of its epoch", e.GetSeq(), ErrMalformed)
	}
	h := Head{Tenant: e.GetTenant(), Device: e.GetDevice(), Epoch: epoch, Lane: e.GetLane(), Seq: seq, BootCount: e.GetBootCount()}
	copy(h.BootID[:], e.GetBootId())
	copy(h.Catalogue[:], e.GetCatalogue())
	if err := h.check(); err != nil {
		return dst, err
	}
	c := content{codec: e.GetCodec(), samples: int(e.GetSamples()), first: e.GetFirstNs(), last: e.LastNs()}
	return appendSealed(dst, appendEnvelope(nil, &h, &c), v.Body)
}
