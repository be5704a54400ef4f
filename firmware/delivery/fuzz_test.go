package delivery

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// Whatever a journal holds, only blocks that fit the data count; and what was not is fetched.
func FuzzJournal(f *testing.F) {
	image := noise(1, 5*small+100)
	id, err := newIdentity(int64(len(image)), [32]byte(signed{image}.Hash("sha256")), "c1")
	if err != nil {
		f.Fatal(err)
	}
	id.block = small
	whole := id.header(firstTry)
	disk := newMemDisk()
	p, err := openPart(partOptions{disk: disk, dir: "/d", name: "image", syncBytes: 1, log: quiet()}, id)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := p.write(image, 0); err != nil {
		f.Fatal(err)
	}
	marked := disk.nodes[disk.names["/d/image.journal"]]
	f.Add(whole, image)
	f.Add(marked, image)
	f.Add(marked, image[:100])
	f.Add(marked[:len(marked)-3], append(image[:1000:1000], make([]byte, 5000)...))
	f.Add(id.header(givenUp), []byte{})
	f.Add([]byte(journalMagic), []byte{})
	f.Fuzz(func(t *testing.T, journal, data []byte) {
		if len(data) > 2*len(image) {
			return
		}
		disk := newMemDisk()
		disk.names["/d/image.journal"], disk.names["/d/image.data"] = 0, 1
		disk.nodes = [][]byte{bytes.Clone(journal), bytes.Clone(data)}
		p, err := openPart(partOptions{disk: disk, dir: "/d", name: "image", syncBytes: 1, log: quiet()}, id)
		if err != nil {
			t.Fatal(err)
		}
		if p.stage == givenUp {
			return
		}
		there := int64(0)
		for i, have := range p.have {
			if off, n := id.span(i); have {
				there += int64(n)
				if _, _, marks, err := parseJournal(id, journal); err != nil || !marks[i] {
					t.Fatalf("block %d at %d counts unmarked", i, off)
				}
			}
		}
		if there != p.bytes || p.bytes > id.length {
			t.Fatalf("%d bytes, %d said", there, p.bytes)
		}
		for !p.complete() {
			off, n := p.missing(0, 1<<40)
			if n <= 0 || off < 0 || off+n > id.length {
				t.Fatalf("missing are %d bytes at %d", n, off)
			}
			if fresh, err := p.write(image[off:off+n], off); err != nil || int64(fresh) != n {
				t.Fatalf("%d of %d bytes were new, %v", fresh, n, err)
			}
		}
		if got := disk.nodes[1]; int64(len(got)) != id.length {
			t.Fatalf("a data file of %d bytes", len(got))
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-99/100", "bytes */100", "bytes 0-99/*", "bytes 5-4/9", "bytes -1-2/3", "bytes 0-18446744073709551616/*", "items 0-1/2",
		"bytes  0-1/2", "bytes 0-1/2, 3-4/5", "bytes +0-1/2", "bytes 4294967296-4294967299/4294967300"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseContentRange(s)
		if err != nil {
			return
		}
		none := r.first == -1 && r.last == -1 && r.length >= 0
		some := r.first >= 0 && r.last >= r.first && (r.length == -1 || r.length > r.last)
		if !none && !some {
			t.Fatalf("%q is read as %+v", s, r)
		}
	})
}

// What is read of a message gives the same message again; and a chunk, whatever it is, does a part no harm.
func FuzzMessage(f *testing.F) {
	image := noise(2, 5*small+100)
	id, err := newIdentity(int64(len(image)), [32]byte(signed{image}.Hash("sha256")), "c1")
	if err != nil {
		f.Fatal(err)
	}
	id.block = small
	f.Add((&Chunk{id.sum, 0, image[:100]}).Encode())
	f.Add((&Chunk{id.sum, int64(len(image)) - 10, image[:100]}).Encode())
	f.Add((&Chunk{id.sum, maxLength, image[:100]}).Encode())
	f.Add((&Request{id.sum, 16 << 10, []Range{{0, 100}, {1 << 33, 1}}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRequest(b); err == nil && !bytes.Equal(r.Encode(), b) {
			t.Fatalf("%x is read as %+v", b, r)
		}
		c, err := DecodeChunk(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Encode(), b) {
			t.Fatalf("%x is read as %+v", b, c)
		}
		p, err := openPart(partOptions{disk: newMemDisk(), dir: "/d", name: "image", syncBytes: 1, log: quiet()}, id)
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := p.write(c.Bytes, c.Offset)
		if fresh > len(c.Bytes) || int64(fresh) != p.bytes || err == nil && c.Offset+int64(len(c.Bytes)) > id.length {
			t.Fatalf("%d bytes at %d: %d new, %v", len(c.Bytes), c.Offset, fresh, err)
		}
	})
}

// Pieces of any size in any order, twice and three times: the file is right when it is complete, and nothing counts twice.
func TestPiecesInAnyOrder(t *testing.T) {
	image := noise(3, 37*small+11)
	id, err := newIdentity(int64(len(image)), [32]byte(signed{image}.Hash("sha256")), "c1")
	if err != nil {
		t.Fatal(err)
	}
	id.block = small
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 3))
		disk := newMemDisk()
		p, err := openPart(partOptions{disk: disk, dir: "/d", name: "image", syncBytes: 7 * small, log: quiet()}, id)
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for n := 0; !p.complete(); n++ {
			off := r.IntN(len(image))
			if r.IntN(2) == 0 {
				off -= off % small
			}
			fresh, err := p.write(image[off:min(off+1+r.IntN(3*small), len(image))], int64(off))
			if err != nil {
				t.Fatal(err)
			}
			if total += fresh; int64(total) != p.bytes {
				t.Fatalf("%d bytes counted, %d new", p.bytes, total)
			}
			if at, n := p.missing(int64(r.IntN(len(image))), int64(1+r.IntN(5*small))); n > 0 && r.IntN(3) == 0 {
				fresh, err := p.write(image[at:at+n], at)
				if err != nil || int64(fresh) != n {
					t.Fatalf("of %d bytes missing at %d %d were new, %v", n, at, fresh, err)
				}
				total += fresh
			}
		}
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(disk.nodes[disk.names["/d/image.data"]], image) {
			t.Fatal("another file")
		}
	}
}

// A journal of another file, and entries of another file or another place, count for nothing.
func TestForeignJournal(t *testing.T) {
	image := noise(1, 5*leastBlock)
	id, err := newIdentity(int64(len(image)), [32]byte(signed{image}.Hash("sha256")), "c1")
	if err != nil {
		t.Fatal(err)
	}
	other := id
	other.sum[0] ^= 1
	longer := id
	longer.length++
	if _, _, _, err := parseJournal(id, other.header(firstTry)); err == nil {
		t.Error("another file's journal is taken")
	}
	if _, _, _, err := parseJournal(id, longer.header(firstTry)); err == nil {
		t.Error("the journal of a file of another length is taken")
	}
	next := id
	next.campaign[0] ^= 1
	for s, ok := range map[stage]bool{firstTry: true, secondTry: false, givenUp: false, givenUp + 1: false} {
		if _, _, _, err := parseJournal(id, next.header(s)); (err == nil) != ok {
			t.Errorf("stage %d of another campaign: %v", s, err)
		}
	}
	journal := id.header(firstTry)
	for i, from := range []identity{id, other, id, id, id} {
		place := i
		if i == 2 {
			place = 1
		}
		_, entry := from.entry(place, 0x01020304)
		journal = append(journal, entry...)
	}
	journal[len(journal)-1] ^= 1
	_, _, marked, err := parseJournal(id, journal[:len(journal)-journalEntry-3])
	if want := []bool{true, false, false, false, false}; err != nil || !slices.Equal(marked, want) {
		t.Errorf("marked are %v (%v)", marked, err)
	}
	_, _, marked, err = parseJournal(id, journal)
	if want := []bool{true, false, false, true, false}; err != nil || !slices.Equal(marked, want) {
		t.Errorf("marked are %v (%v)", marked, err)
	}
}
