package httpin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// anyTenant stands in a file of tokens for all tenants: for a broker's webhook.
const anyTenant = "*"

// principal is who sent a request, and for whom it may speak.
type principal struct {
	name   string // of its rate; no secret
	tenant string // anyTenant: every one
	device string // empty: every one of the tenant
}

// may says whether the principal may speak for a device.
func (p principal) may(tenant, device string) *problem {
	if p.tenant != anyTenant && p.tenant != tenant {
		return refuse(http.StatusForbidden, "these credentials are not for tenant %.80q", tenant)
	}
	if p.device != "" && p.device != device {
		return refuse(http.StatusForbidden, "the client certificate is that of device %.80q, not %.80q", p.device, device)
	}
	return nil
}

// authenticate finds out who sent a request. A token outranks a certificate: a gateway may show both.
func (s *Server) authenticate(r *http.Request) (principal, *problem) {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") || s.o.Tokens == nil {
			return principal{}, refuse(http.StatusUnauthorized, "Authorization: want Bearer TOKEN, with one of the tokens of this server")
		}
		if tenant, name, ok := s.o.Tokens.find(strings.TrimSpace(token)); ok {
			return principal{name: name, tenant: tenant}, nil
		}
		return principal{}, refuse(http.StatusUnauthorized, "the token is not known here")
	}
	if s.o.certificates() && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		p := principal{tenant: s.o.Tenant, device: subject.CommonName}
		if len(subject.Organization) > 0 {
			p.tenant = subject.Organization[0]
		}
		if p.tenant == "" {
			return principal{}, refuse(http.StatusForbidden, "the client certificate names no tenant (organisation), and this server is not for one tenant alone")
		}
		for what, name := range map[string]string{"tenant": p.tenant, "device": p.device} {
			if err := telemetrypb.CheckName(what, name); err != nil {
				return principal{}, refuse(http.StatusForbidden, "the client certificate: %v", err)
			}
		}
		p.name = "certificate " + p.tenant + "/" + p.device
		return p, nil
	}
	if s.o.Tokens != nil || s.o.certificates() {
		return principal{}, refuse(http.StatusUnauthorized, "send Authorization: Bearer TOKEN, or show a client certificate")
	}
	return principal{name: "anyone", tenant: anyTenant}, nil // on loopback only: Check
}

// tokensAgain is how often the file of tokens is looked at.
const tokensAgain = time.Second

// maxTokenFile bounds the file of tokens, bytes: about 10,000 tokens.
const maxTokenFile = 1 << 20

// Tokens are the bearer tokens of a file, read again when it changed. Each line is `TENANT: SHA-256 of the token in hex`;
// the tenant * is for a broker's webhook, which speaks for all. Empty lines and lines that start with # mean nothing. It
// is safe for use from several goroutines.
type Tokens struct {
	file string
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	looked time.Time
	stamp  string
	failed bool // the last try to read it again; it was said
	list   []token
}

type token struct {
	tenant string
	sum    [sha256.Size]byte
}

// OpenTokens reads a file of tokens.
func OpenTokens(file string, log *slog.Logger) (*Tokens, error) {
	t := &Tokens{file: file, log: log}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	return t, t.readLocked()
}

func (t *Tokens) readLocked() error {
	info, err := os.Stat(t.file)
	if err != nil {
		return fmt.Errorf("file of tokens: %w", err)
	}
	stamp := fmt.Sprint(info.ModTime().UnixNano(), info.Size())
	if stamp == t.stamp && !t.failed {
		return nil
	}
	if info.Size() > maxTokenFile {
		return fmt.Errorf("file of tokens %s: %d bytes, at most %d", t.file, info.Size(), maxTokenFile)
	}
	text, err := os.ReadFile(t.file)
	if err != nil {
		return fmt.Errorf("file of tokens: %w", err)
	}
	list, err := parseTokens(string(text))
	if err != nil {
		return fmt.Errorf("file of tokens %s: %w", t.file, err)
	}
	t.list, t.stamp = list, stamp
	return nil
}

func parseTokens(text string) (list []token, err error) {
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		tenant, sum, ok := strings.Cut(line, ":")
		k := token{tenant: strings.TrimSpace(tenant)}
		decoded, err := hex.DecodeString(strings.TrimSpace(sum))
		if !ok || err != nil || copy(k.sum[:], decoded) != len(k.sum) || len(decoded) != len(k.sum) {
			return nil, fmt.Errorf("line %d: want TENANT: SHA-256 of the token in 64 hex digits, as `printf %%s TOKEN | sha256sum` gives it", i+1)
		}
		if k.tenant != anyTenant {
			if err := telemetrypb.CheckName("tenant", k.tenant); err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
		}
		list = append(list, k)
	}
	if len(list) == 0 {
		return nil, errors.New("no token in it: nobody could come in")
	}
	return list, nil
}

// find looks a token up in constant time: neither whether it is there nor which one it is shows in how long it takes.
func (t *Tokens) find(secret string) (tenant, name string, ok bool) {
	sum := sha256.Sum256([]byte(secret))
	list, at := t.current(), -1
	for i, k := range list {
		at = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(k.sum[:], sum[:]), i, at)
	}
	if at < 0 {
		return "", "", false
	}
	return list[at].tenant, fmt.Sprintf("token %x", sum[:4]), true
}

// current is the list, read again when the file changed. A file that cannot be read leaves the last good one.
func (t *Tokens) current() []token {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.looked) >= tokensAgain {
		t.looked = now
		err := t.readLocked()
		if err != nil && !t.failed {
			t.log.Error("tokens stay as they were", "err", err)
		}
		t.failed = err != nil
	}
	return t.list
}
