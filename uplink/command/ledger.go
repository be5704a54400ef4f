package command

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// ledgerFile is the ledger's name in its folder.
const ledgerFile = "commands"

// keptEntries is how many of the newest commands can be answered again.
const keptEntries = 32

// maxLedger bounds the file, bytes.
const maxLedger = 1 << 20

// ledger says what was taken. The file is its truth: what memory says is what was last written.
//
// The file is one line with a checksum, then JSON:
//
//	waybill-commands 1 CRC32C\n{…}\n
type ledger struct {
	path  string
	write func(path string, data []byte) error
	page  page
	stale bool // the file does not know yet what was told
}

// page is the ledger as it is written.
type page struct {
	Epoch string `json:"epoch"` // of the queue beside which it was kept
	// Born is before everything that can have been taken and is not in here, Unix ns: commands that were issued before it are refused. 0:
	// the ledger began while nobody knew the time.
	Born    int64             `json:"born_unix_ns"`
	Last    map[string]uint64 `json:"last"` // the highest counter that was taken, by key id
	Entries []entry           `json:"entries"`
}

// entry is one command that was taken, the oldest first.
type entry struct {
	Key       string `json:"key"`
	Counter   uint64 `json:"counter"`
	ID        string `json:"id"`
	Name      string `json:"name"`
	Digest    string `json:"sha256"` // of what was signed
	State     State  `json:"state"`
	Reason    Reason `json:"reason,omitempty"`
	Text      string `json:"text,omitempty"`
	BootID    string `json:"boot_id"`
	BootCount uint32 `json:"boot_count"`
	BootNS    int64  `json:"boot_ns"` // CLOCK_BOOTTIME of State
	Told      bool   `json:"told"`    // the final result is durable in the queue
}

func (e *entry) final() bool { return e.State == Done || e.State == Failed || e.State == Refused }

// result is the entry as the store gets it.
func (e *entry) result() *telemetrypb.CommandResult {
	r := &telemetrypb.CommandResult{
		Id: e.ID, Name: e.Name, State: string(e.State), Reason: string(e.Reason), Text: e.Text,
		BootNs: e.BootNS, BootCount: e.BootCount, Counter: e.Counter,
	}
	r.BootId, _ = hex.DecodeString(e.BootID) // checked when it was read
	r.KeyId, _ = hex.DecodeString(e.Key)
	return r
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const ledgerHead = "waybill-commands 1 %08x\n"

// errLedger: the file is not what was written.
var errLedger = errors.New("not a ledger of commands, or damaged")

// openLedger reads the ledger of a folder. One that is not there, cannot be read, or was kept beside another queue cannot say what was taken: the
// warning says so, and Born is to be set anew. A sound one's counters hold all the same.
func openLedger(dir string, epoch uint64, write func(string, []byte) error) (l *ledger, warning error) {
	l = &ledger{path: filepath.Join(dir, ledgerFile), write: write}
	name := fmt.Sprintf("%016x", epoch)
	data, err := os.ReadFile(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	default:
		if err == nil {
			l.page, err = parseLedger(data)
		}
		if err != nil {
			l.page, warning = page{}, fmt.Errorf("%s: %w; commands that were issued before now are refused", l.path, err)
		} else if l.page.Epoch != name {
			l.page.Born = 0
			warning = fmt.Errorf("%s: kept beside another queue, so that it may be an older copy; commands that were issued before now are refused", l.path)
		}
	}
	l.page.Epoch = name
	if l.page.Last == nil {
		l.page.Last = map[string]uint64{}
	}
	return l, warning
}

func parseLedger(data []byte) (p page, err error) {
	line, body, whole := bytes.Cut(data, []byte("\n"))
	var sum uint32
	if !whole || len(data) > maxLedger {
		return page{}, errLedger
	}
	if _, err := fmt.Sscanf(string(line)+"\n", ledgerHead, &sum); err != nil || sum != crc32.Checksum(body, castagnoli) {
		return page{}, errLedger
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return page{}, fmt.Errorf("%w: %w", errLedger, err)
	}
	for i := range p.Entries {
		e := &p.Entries[i]
		boot, bootErr := hex.DecodeString(e.BootID)
		key, keyErr := hex.DecodeString(e.Key)
		if bootErr != nil || keyErr != nil || len(boot) != 16 || len(key) != len(KeyID{}) || checkID(e.ID) != nil {
			return page{}, errLedger
		}
	}
	return p, nil
}

// change writes the ledger as f makes it; when that fails, memory stays as it was. What the disk has then is the old one or
// the new one, and both are safe: a command that stands in it without having run is answered as interrupted.
func (l *ledger) change(f func(p *page)) error {
	next := page{Epoch: l.page.Epoch, Born: l.page.Born, Last: make(map[string]uint64, len(l.page.Last)+1), Entries: slices.Clone(l.page.Entries)}
	for key, last := range l.page.Last {
		next.Last[key] = last
	}
	f(&next)
	if n := len(next.Entries) - keptEntries; n > 0 {
		next.Entries = trim(next.Entries, n)
	}
	body, err := json.Marshal(next)
	if err != nil {
		return err
	}
	body = append(body, '\n')
	if err := l.write(l.path, append(fmt.Appendf(nil, ledgerHead, crc32.Checksum(body, castagnoli)), body...)); err != nil {
		return err
	}
	l.page, l.stale = next, false
	return nil
}

// trim drops the n oldest entries that owe nobody an answer.
func trim(entries []entry, n int) []entry {
	kept := entries[:0]
	for _, e := range entries {
		if n > 0 && e.final() && e.Told {
			n--
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// born says whether the ledger knows when it began, and since when.
func (l *ledger) born() (int64, bool) { return l.page.Born, l.page.Born != 0 }

// settle makes the ledger begin at a time.
func (l *ledger) settle(unix int64) error {
	if unix <= 0 || unix == math.MaxInt64 {
		return nil
	}
	return l.change(func(p *page) { p.Born = unix })
}

// find is the entry with a key and a counter, nil if there is none.
func (l *ledger) find(key KeyID, counter uint64) *entry {
	name := key.String()
	for i := range l.page.Entries {
		if e := &l.page.Entries[i]; e.Counter == counter && e.Key == name {
			return e
		}
	}
	return nil
}

func (l *ledger) last(key KeyID) uint64 { return l.page.Last[key.String()] }

// take notes a command as taken. Only when it returned nil may the command run.
func (l *ledger) take(e entry) error {
	return l.change(func(p *page) {
		p.Last[e.Key] = e.Counter
		p.Entries = append(p.Entries, e)
	})
}

// finish notes a result.
func (l *ledger) finish(e entry) error {
	return l.change(func(p *page) { p.put(e) })
}

func (p *page) put(e entry) {
	for i := range p.Entries {
		if p.Entries[i].Key == e.Key && p.Entries[i].Counter == e.Counter {
			p.Entries[i] = e
		}
	}
}

// told marks results as durable in the queue. That is written with the next change, or at the end: at worst a result is told once
// more, and the store keeps one of each id.
func (l *ledger) told(key string, counter uint64) {
	for i := range l.page.Entries {
		if e := &l.page.Entries[i]; e.Key == key && e.Counter == counter && e.final() {
			e.Told, l.stale = true, true
		}
	}
}

// close writes what only memory knows.
func (l *ledger) close() error {
	if !l.stale {
		return nil
	}
	return l.change(func(*page) {})
}

func digestName(d [sha256.Size]byte) string { return hex.EncodeToString(d[:]) }
