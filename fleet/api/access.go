package api

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// AllTenants is the tenant of a token that may read everything.
const AllTenants = "*"

// Principal is who asks.
type Principal struct {
	Tenant string // or AllTenants
	Erase  bool   // may erase devices of it
}

func (p Principal) mayRead(tenant string) bool { return p.Tenant == AllTenants || p.Tenant == tenant }

// Access tells who a request comes from; an error refuses it, in words that may be shown.
type Access interface {
	Who(*http.Request) (Principal, error)
}

// TokenFile is an Access by bearer tokens. Each line of the file is `tenant: SHA-256` of a token, in hexadecimal digits, and `erase`
// behind it where the token may erase; the tenant * is all of them. Lines that begin with # are remarks. The file is
// read again when it has changed; while it cannot be read, or is wrong, nobody is let in. It is safe for use from several goroutines.
type TokenFile struct {
	path string

	mu      sync.Mutex // guards what follows
	looked  time.Time
	stat    os.FileInfo
	entries []tokenEntry
	err     error
}

type tokenEntry struct {
	who Principal
	sum [sha256.Size]byte
}

// tokenFileMost bounds the file's size in bytes.
const tokenFileMost = 1 << 20

// OpenTokens reads the file for the first time, so that what is wrong with it is known at the start.
func OpenTokens(path string) (*TokenFile, error) {
	f := &TokenFile{path: path}
	f.read()
	if f.err == nil && len(f.entries) == 0 {
		f.err = fmt.Errorf("%s: no token in it; a line is `tenant: SHA-256-OF-THE-TOKEN`", path)
	}
	return f, f.err
}

// Who compares all lines in constant time.
func (f *TokenFile) Who(q *http.Request) (Principal, error) {
	scheme, token, _ := strings.Cut(q.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return Principal{}, errors.New("a token is needed: Authorization: Bearer TOKEN")
	}
	entries, err := f.current()
	if err != nil {
		return Principal{}, errors.New("tokens cannot be checked now; the server's log says why")
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	found := -1
	for i := range entries {
		if subtle.ConstantTimeCompare(sum[:], entries[i].sum[:]) == 1 {
			found = i
		}
	}
	if found < 0 {
		return Principal{}, errors.New("this token is not known")
	}
	return entries[found].who, nil
}

// Err is what is wrong with the file now, nil when nothing is.
func (f *TokenFile) Err() error {
	_, err := f.current()
	return err
}

// current is what the file says, looked at once a second at most.
func (f *TokenFile) current() ([]tokenEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) >= time.Second {
		stat, err := os.Stat(f.path)
		if f.looked = time.Now(); err != nil || f.err != nil || !os.SameFile(stat, f.stat) || stat.ModTime() != f.stat.ModTime() || stat.Size() != f.stat.Size() {
			f.read()
		}
	}
	return f.entries, f.err
}

func (f *TokenFile) read() {
	f.entries, f.looked = nil, time.Now()
	if f.stat, f.err = os.Stat(f.path); f.err != nil {
		return
	}
	if f.stat.Size() > tokenFileMost {
		f.err = fmt.Errorf("%s: larger than %d bytes", f.path, tokenFileMost)
		return
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		f.err = err
		return
	}
	if f.entries, err = parseTokens(text); err != nil {
		f.entries, f.err = nil, fmt.Errorf("%s: %w", f.path, err)
	}
}

func parseTokens(text []byte) (entries []tokenEntry, err error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		tenant, rest, ok := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if tenant = strings.TrimSpace(tenant); !ok || tenant == "" || len(words) < 1 || len(words) > 2 || len(words) == 2 && words[1] != "erase" {
			return nil, fmt.Errorf("line %d: want `tenant: SHA-256`, and `erase` behind it where that is allowed", n)
		}
		e := tokenEntry{who: Principal{tenant, len(words) == 2}}
		sum, err := hex.DecodeString(words[0])
		if err != nil || len(sum) != sha256.Size { // and not what stands there: it may be the token itself
			return nil, fmt.Errorf("line %d: want 64 hexadecimal digits, as `sha256sum` prints them", n)
		}
		copy(e.sum[:], sum)
		entries = append(entries, e)
	}
	return entries, lines.Err()
}
