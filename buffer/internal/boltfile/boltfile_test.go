package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// bucketName begins with a number and is long at times.
func bucketName(i int) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(i+1)), bytes.Repeat([]byte("n"), i*37%300)...)
}

// write makes a file with bbolt: numbered buckets, each with some keys; sizes decide whether they are inline, of
// one page, of overflow pages or of several levels.
func write(t testing.TB, path string, commits int, keys func(i int) map[string][]byte) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: PageSize, FreelistType: bolt.FreelistMapType, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range commits {
		err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucket(bucketName(i))
			if err != nil {
				return err
			}
			for k, v := range keys(i) {
				if err := b.Put([]byte(k), v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func snapshot(t testing.TB, path string) *Snapshot {
	t.Helper()
	contents, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(bytes.NewReader(contents), int64(len(contents)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestReadsWhatBboltWrote compares every bucket, key and value with what went in.
func TestReadsWhatBboltWrote(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	shapes := map[string]func(i int) map[string][]byte{
		"inline":   func(i int) map[string][]byte { return map[string][]byte{"a": fmt.Append(nil, i), "b": {}} },
		"one page": func(i int) map[string][]byte { return map[string][]byte{"a": make([]byte, 1500), "b": {byte(i)}} },
		"overflow": func(i int) map[string][]byte {
			m := map[string][]byte{}
			for k := range 1 + i%7 {
				v := make([]byte, rnd.IntN(40000))
				for j := range v {
					v[j] = byte(rnd.Uint32())
				}
				m[fmt.Sprintf("key%03d", k)] = v
			}
			return m
		},
		"many keys": func(i int) map[string][]byte {
			m := map[string][]byte{}
			for k := range 3000 {
				m[fmt.Sprintf("key%06d", k)] = fmt.Append(nil, i, k)
			}
			return m
		},
		"empty": func(int) map[string][]byte { return nil },
	}
	for name, shape := range shapes {
		for _, commits := range []int{0, 1, 3, 100} {
			if name == "many keys" && commits > 3 {
				continue
			}
			t.Run(fmt.Sprint(name, commits), func(t *testing.T) {
				var want []map[string][]byte
				path := filepath.Join(t.TempDir(), "db")
				write(t, path, commits, func(i int) map[string][]byte {
					m := shape(i)
					want = append(want, m)
					return m
				})
				s := snapshot(t, path)
				if !s.BothMetas {
					t.Error("BothMetas is false")
				}
				n := 0
				err := s.Buckets(func(name []byte, b Bucket) error {
					if binary.BigEndian.Uint64(name) != uint64(n+1) {
						t.Fatalf("bucket %x at place %d", name, n)
					}
					keys := 0
					err := b.Each(func(key []byte, v Value) error {
						keys++
						got, err := s.Read(v)
						if err != nil {
							return err
						}
						if !bytes.Equal(got, want[n][string(key)]) {
							t.Errorf("bucket %d, key %q: %d bytes that are not what went in", n, key, len(got))
						}
						return nil
					})
					if err != nil || keys != len(want[n]) {
						t.Errorf("bucket %d: %d keys, want %d; %v", n, keys, len(want[n]), err)
					}
					found, full, ok, err := s.Bucket(name[:8])
					if err != nil || !ok || !bytes.Equal(full, bucketName(n)) || !bytes.Equal(name, full) {
						t.Fatalf("Bucket(%x): %x %v %v", name[:8], full, ok, err)
					}
					for key, value := range want[n] {
						v, ok, err := found.Find([]byte(key))
						if err != nil || !ok || v.Size != int64(len(value)) {
							t.Errorf("Find(%q): %v %v, %d bytes", key, ok, err, v.Size)
						}
					}
					if _, ok, err := found.Find([]byte("zz")); ok || err != nil {
						t.Errorf("Find of what is not there: %v %v", ok, err)
					}
					n++
					return nil
				})
				if err != nil || n != commits {
					t.Errorf("%d buckets, want %d; %v", n, commits, err)
				}
				for _, prefix := range [][]byte{[]byte("zzzz"), {0, 0, 0, 0, 0, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0, 9}} {
					if _, _, ok, err := s.Bucket(prefix); ok || err != nil {
						t.Errorf("Bucket(%x), which is not there: %v %v", prefix, ok, err)
					}
				}
			})
		}
	}
}

// TestOlderMeta: with one meta page damaged the other is used, and it shows.
func TestOlderMeta(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	write(t, path, 4, func(i int) map[string][]byte { return map[string][]byte{"a": {byte(i)}} })
	contents, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open := func() (*Snapshot, error) { return Open(bytes.NewReader(contents), int64(len(contents))) }
	newest, err := open()
	if err != nil {
		t.Fatal(err)
	}
	page := int64(newest.txid%2) * PageSize
	contents[page+headerSize+20] ^= 1
	older, err := open()
	if err != nil || older.BothMetas || older.txid != newest.txid-1 {
		t.Fatalf("with the newest meta page damaged: %+v, %v", older, err)
	}
	contents[PageSize-page+headerSize+20] ^= 1
	if _, err := open(); !errors.Is(err, ErrDamaged) {
		t.Errorf("with both damaged: %v", err)
	}
}

// readAll walks everything; it only has to come back.
func readAll(contents []byte) error {
	s, err := Open(bytes.NewReader(contents), int64(len(contents)))
	if err != nil {
		return err
	}
	return s.Buckets(func(name []byte, b Bucket) error {
		if _, _, _, err := s.Bucket(name); err != nil {
			return err
		}
		return b.Each(func(key []byte, v Value) error {
			if v.Size > int64(len(contents)) {
				return fmt.Errorf("a value of %d bytes in a file of %d", v.Size, len(contents))
			}
			_, _, err := b.Find(key)
			return err
		})
	})
}

// TestDamageIsAnError flips bits and cuts the file off: never a panic, never anything but ErrDamaged.
func TestDamageIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	write(t, path, 30, func(i int) map[string][]byte {
		return map[string][]byte{"a": make([]byte, i*400), "b": make([]byte, 9000)}
	})
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	damaged := 0
	for range 1000 {
		b := bytes.Clone(whole)
		for range 1 + rnd.IntN(3) {
			page := rnd.IntN(len(b)/PageSize) * PageSize
			b[page+rnd.IntN(64)] ^= 1 << rnd.IntN(8) // where the headers are
		}
		if err := readAll(b); err != nil {
			damaged++
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("%v, want ErrDamaged", err)
			}
		}
	}
	if damaged < 100 {
		t.Errorf("only %d of 1000 were noticed", damaged)
	}
	for size := 0; size < len(whole); size += 1000 {
		if err := readAll(whole[:size]); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut off at %d: %v", size, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), "db")
	write(f, path, 3, func(i int) map[string][]byte { return map[string][]byte{"a": {1}, "b": make([]byte, 3000*i)} })
	contents, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(contents[:12*PageSize], uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, x byte) {
		if len(b) > 0 {
			b[int(at)%len(b)] ^= x
		}
		if err := readAll(b); err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%v, want ErrDamaged", err)
		}
	})
}
