package telemetrypb

// CONTRACT: signatures; the proto work replaces this file.

type Head struct {
	Tenant     string
	Device     string
	Epoch      uint64
	Lane       Lane
	Seq        uint64
	BootID     [16]byte
	BootCount  uint32
	Catalogue  [16]byte // first 16 bytes of the catalogue's SHA-256; zero = none
	Supersedes []*SeqRange
}

// BatchView is a batch whose checksum and format have been verified. Bytes and Body alias the input.
type BatchView struct {
	Envelope *Envelope
	Body     []byte
	Bytes    []byte
}

func AppendSamples(dst []byte, samples []Sample) ([]byte, error)        { panic("contract") }
func DecodeSamples(dst []Sample, body []byte) ([]Sample, error)         { panic("contract") }
func AppendBatch(dst []byte, h *Head, samples []Sample) ([]byte, error) { panic("contract") }
func AppendControl(dst []byte, h *Head, r *Records) ([]byte, error)     { panic("contract") }
func OpenBatch(b []byte) (BatchView, error)                             { panic("contract") }
func (v BatchView) Samples(dst []Sample) ([]Sample, error)              { panic("contract") }
func (v BatchView) Records() (*Records, error)                          { panic("contract") }

type PayloadView struct {
	Batches [][]byte // each as it was sealed; not yet verified
	Backlog bool
	Clocks  []*ClockRecord
	Plain   []*PlainBatch
}

func AppendPayload(dst []byte, backlog bool, clocks []*ClockRecord, batches ...[]byte) []byte {
	panic("contract")
}
func OpenPayload(b []byte) (PayloadView, error) { panic("contract") }
func RenderPlain(v BatchView, c *Catalogue, clock *ClockRecord) (*PlainBatch, error) {
	panic("contract")
}
func AppendPlainPayload(dst []byte, json, backlog bool, clocks []*ClockRecord, plain ...*PlainBatch) ([]byte, error) {
	panic("contract")
}

func EncodeCatalogue(c *Catalogue) (data []byte, hash [32]byte) { panic("contract") }
func SplitCatalogue(data []byte) []*CataloguePart               { panic("contract") }

type CatalogueAssembler struct{}

func (a *CatalogueAssembler) Add(p *CataloguePart) (*Catalogue, [32]byte, error) { panic("contract") }

// WallTime: unix ns and half-width uncertainty of a BOOTTIME; source NONE when the record says nothing.
func (c *ClockRecord) WallTime(bootNS int64) (unixNS int64, uncertaintyNS uint64, source TimeSource) {
	panic("contract")
}

func Topic(tenant, device, rest string) string { panic("contract") }
