package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waybill-telematics/waybill/can"
)

// dbcFile is a candidate: its messages by what comes on a bus.
type dbcFile struct {
	path     string
	messages int
	byID     map[frameKey]*can.Message
	byPGN    map[uint32]*can.Message // of those that are J1939
}

// fit is how well a DBC file explains what was heard on a bus. An identifier that it names counts for it when its length is
// what the file says, and against it when not: such a file would read the wrong bits.
type fit struct {
	File     string  `json:"file"`
	Right    int     `json:"right"`    // ids heard that it names, with the length that it says
	Wrong    int     `json:"wrong"`    // with another length
	Heard    int     `json:"heard"`    // ids heard
	Messages int     `json:"messages"` // in the file
	Score    float64 `json:"score"`    // (right − wrong) ÷ the lesser of heard and messages: of what could fit

	evidence int // an id of 29 bits is worth strongID of 11 bits, which two makers share easily
}

func (f fit) String() string {
	text := fmt.Sprintf("%s: names %d of %d ids heard", filepath.Base(f.File), f.Right+f.Wrong, f.Heard)
	if f.Wrong > 0 {
		text += fmt.Sprintf(", %d of them with another length, which count against it", f.Wrong)
	}
	return fmt.Sprintf("%s; has %d messages; score %.2f", text, f.Messages, f.Score)
}

// What a file has to reach to be taken: a score and evidence. Small files fit by chance: on a bus of 180 ids of 11 bits a
// file of eight messages has three of them once in 40 times.
const (
	leastScore    = 0.3 // of a bus's first file, with muchEvidence
	goodScore     = 0.6 // of any, with leastEvidence
	leastEvidence = 3   // or all ids that came
	muchEvidence  = 10
	strongID      = 3
)

// readDBCs reads the files that are named, and those in folders that are. What is none is told to warn.
func readDBCs(paths []string, warn func(string)) ([]*dbcFile, error) {
	var files []*dbcFile
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || name != path && !strings.EqualFold(filepath.Ext(name), ".dbc") {
				return err
			}
			db, err := readDBC(name)
			if err != nil {
				return err
			}
			if len(db.Messages) == 0 {
				warn(name + ": no message in it; waybill-agent can lint tells why")
				return nil
			}
			files = append(files, newDBCFile(name, db))
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("--dbc: %w", err)
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() && len(files) == 0 {
			warn(path + ": no DBC file in it")
		}
	}
	return files, nil
}

func newDBCFile(path string, db *can.Database) *dbcFile {
	f := &dbcFile{path: path, messages: len(db.Messages), byID: map[frameKey]*can.Message{}, byPGN: map[uint32]*can.Message{}}
	for _, m := range db.Messages {
		if key := (frameKey{m.ID, m.Extended}); f.byID[key] == nil {
			f.byID[key] = m
		}
		if pgn := can.PGN(m.ID); m.J1939 && m.Extended && f.byPGN[pgn] == nil {
			f.byPGN[pgn] = m
		}
	}
	return f
}

// message is what the file has for an identifier, or nil.
func (f *dbcFile) message(key frameKey) *can.Message {
	if m := f.byID[key]; m != nil || !key.extended {
		return m
	}
	return f.byPGN[can.PGN(key.id)]
}

// judge compares a file with what was heard, but for what is explained already.
func (f *dbcFile) judge(h *heard, explained map[frameKey]bool) fit {
	result := fit{File: f.path, Messages: f.messages}
	for key, one := range h.ids {
		if explained[key] {
			continue
		}
		result.Heard++
		switch m := f.message(key); {
		case m == nil:
		case !lengthFits(m, one.longest):
			result.Wrong++
		case key.extended:
			result.Right++
			result.evidence += strongID
		default:
			result.Right++
			result.evidence++
		}
	}
	if possible := min(result.Heard, result.Messages); possible > 0 {
		result.Score = float64(result.Right-result.Wrong) / float64(possible)
	}
	return result
}

// lengthFits says whether frames of at most so many bytes can be a message's. Frames of CAN FD are padded; a message of
// J1939 or NMEA 2000 beyond 8 bytes comes in frames of 8.
func lengthFits(m *can.Message, longest int) bool {
	switch {
	case longest > 8:
		return can.PaddedLen(m.Length) == longest
	case m.Length > 8:
		return m.J1939 && longest == 8
	}
	return m.Length == longest
}

// rank orders files, the best first: by how many ids they explain, then by score, then by name.
func rank(h *heard, files []*dbcFile, explained map[frameKey]bool) []fit {
	list := make([]fit, 0, len(files))
	for _, f := range files {
		list = append(list, f.judge(h, explained))
	}
	slices.SortFunc(list, func(a, b fit) int {
		return cmp.Or(cmp.Compare(b.Right-b.Wrong, a.Right-a.Wrong), cmp.Compare(b.Score, a.Score), cmp.Compare(a.File, b.File))
	})
	return list
}

// choose takes the files that explain a bus, each for what those before it do not, and ranks all of them.
func choose(h *heard, files []*dbcFile) (taken, all []fit) {
	all = rank(h, files, nil)
	explained := map[frameKey]bool{}
	for {
		ranked := rank(h, files, explained)
		i := slices.IndexFunc(ranked, func(f fit) bool { return f.convinces(len(taken) == 0) })
		if i < 0 {
			return taken, all
		}
		taken = append(taken, ranked[i])
		for _, f := range files {
			if f.path != ranked[i].File {
				continue
			}
			for key := range h.ids {
				explained[key] = explained[key] || f.message(key) != nil
			}
		}
	}
}

// convinces says whether a file is taken for a bus.
func (f fit) convinces(first bool) bool {
	switch {
	case f.Right == 0:
		return false
	case first && f.Score >= leastScore && f.evidence >= muchEvidence:
		return true
	}
	return f.Score >= goodScore && (f.evidence >= leastEvidence || f.Right == f.Heard)
}

// usualPGNs are on nearly every J1939 bus: EEC1, CCVS, ET1, EFL/P1, EEC2, DM1 and the transport protocol (SAE J1939-71,
// -73, -21).
var usualPGNs = []uint32{61444, 65265, 65262, 65263, 61443, 65226, 60416}

// looksJ1939 says whether a bus speaks J1939, as far as identifiers tell.
func (h *heard) looksJ1939() bool {
	seen := 0
	for key := range h.ids {
		if key.extended && slices.Contains(usualPGNs, can.PGN(key.id)) {
			seen++
		}
	}
	return seen >= 2
}
