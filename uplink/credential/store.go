package credential

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/uplink"
)

// maxFile bounds a file of credentials, bytes.
const maxFile = 1 << 20

// Options say where the credentials are. Paths that are empty are not used.
type Options struct {
	CA         string     // PEM: who may sign the broker's certificate; empty: the system's roots
	Pins       [][32]byte // SHA-256 of public keys (SubjectPublicKeyInfo), one of which must be in the broker's verified chain
	ServerName string     // the name that the broker's certificate must have; empty: the URL's host
	MinVersion uint16     // tls.VersionTLS12 (default) or tls.VersionTLS13

	Cert, Key      string // PEM: certificate with its intermediates, and key
	PKCS12         string // both in one file
	PKCS12Password string // the file whose first line is its password; empty: none
	// PKCS12PasswordEnv is the environment variable that holds it, in place of the file.
	PKCS12PasswordEnv string
	// Signer gives the key of Cert where it is not in a file: in a TPM, a secure element. nil: Key.
	Signer func(*x509.Certificate) (crypto.Signer, error)

	User     string // file: its first line
	Password string // file: its first line
	// PasswordEnv is the environment variable that holds the password, in place of the file.
	PasswordEnv string
	Token       Token // shown as the password; see there

	// Now is the time that is known, and whether somebody vouches for it: only then is what has expired not even shown.
	Now func() (now time.Time, vouched bool)
}

// Store reads the credentials. It is safe for use from several goroutines.
type Store struct {
	o Options

	mu     sync.Mutex  // guards what follows
	seen   [2]string   // the files' state when they were last read, by group
	expiry [2]validity // of what was last read, by group
	token  held
}

// The groups of files: they are read at different moments of a connection.
const (
	groupTLS = iota
	groupLogin
)

// validity is how long something may be used.
type validity struct {
	what        string
	remedy      string
	first, last time.Time // zero: no bound
	warn        time.Time // when it should have been renewed
}

// New makes a store; nothing is read.
func New(o Options) *Store {
	if o.Token.Timeout <= 0 {
		o.Token.Timeout = 10 * time.Second
	}
	return &Store{o: o}
}

// TLS is the configuration for one connection.
func (s *Store) TLS() (*tls.Config, error) {
	s.begin(groupTLS)
	c := &tls.Config{MinVersion: max(s.o.MinVersion, tls.VersionTLS12), ServerName: s.o.ServerName, Time: func() time.Time {
		now, _ := s.o.Now()
		return now
	}}
	if s.o.CA != "" {
		text, err := readFile(s.o.CA)
		if err != nil {
			return nil, wrong("ca", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, wrong("ca", fmt.Errorf("%s holds no PEM certificate", s.o.CA))
		}
	}
	if len(s.o.Pins) > 0 {
		c.VerifyConnection = s.pinned
	}
	pair, from, err := s.pair()
	if err != nil || pair == nil {
		return c, err
	}
	v := validity{what: fmt.Sprintf("the client certificate %s (%s)", from, pair.Leaf.Subject), remedy: "Renew it: the new files are taken at once",
		first: pair.Leaf.NotBefore, last: pair.Leaf.NotAfter}
	v.warn = v.last.Add(-min(max(v.last.Sub(v.first)/10, time.Hour), 30*24*time.Hour))
	if err := s.check(groupTLS, v); err != nil {
		return nil, err
	}
	c.Certificates = []tls.Certificate{*pair}
	return c, nil
}

// begin notes what a group of files is like before it is read.
func (s *Store) begin(group int) {
	state := s.state(group)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[group], s.expiry[group] = state, validity{}
}

// pair reads the client certificate; nil: there is none.
func (s *Store) pair() (*tls.Certificate, string, error) {
	switch {
	case s.o.PKCS12 != "":
		pair, err := s.readPKCS12()
		return pair, s.o.PKCS12, err
	case s.o.Cert == "":
		return nil, "", nil
	}
	cert, err := readFile(s.o.Cert)
	if err != nil {
		return nil, "", wrong("cert", err)
	}
	if s.o.Signer != nil {
		pair, err := s.signed(cert)
		return pair, s.o.Cert, err
	}
	key, err := readFile(s.o.Key)
	if err != nil {
		return nil, "", wrong("key", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, "", wrong("cert and key", fmt.Errorf("%s and %s: %w; where they are being renewed, the second file will end this", s.o.Cert, s.o.Key, err))
	}
	return &pair, s.o.Cert, nil
}

// check notes how long something is valid, and refuses it when the time is surely outside of that.
func (s *Store) check(group int, v validity) error {
	s.mu.Lock()
	s.expiry[group] = v
	s.mu.Unlock()
	now, vouched := s.o.Now()
	if fault := v.fault(now); fault != "" && vouched {
		return &uplink.CredentialError{Text: v.what + " " + fault + ". " + v.remedy}
	}
	return nil
}

func (v validity) fault(now time.Time) string {
	switch {
	case !v.last.IsZero() && now.After(v.last):
		return fmt.Sprintf("expired at %s, and it is %s", stamp(v.last), stamp(now))
	case !v.first.IsZero() && now.Before(v.first):
		return fmt.Sprintf("is valid only from %s on, and it is %s: if that is not so, the vehicle's clock is wrong", stamp(v.first), stamp(now))
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// Explain says what is known of the credentials read last, for uplink.Options.Explain.
func (s *Store) Explain() string {
	now, vouched := s.o.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var parts []string
	for _, v := range s.expiry {
		if fault := v.fault(now); fault != "" {
			parts = append(parts, v.what+" "+fault)
		} else if !v.last.IsZero() {
			parts = append(parts, v.what+" is valid until "+stamp(v.last))
		}
	}
	if !vouched {
		parts = append(parts, fmt.Sprintf("nobody vouches for this vehicle's clock, which says %s", stamp(now)))
	}
	return strings.Join(parts, "; ")
}

// Expiring says what of the credentials read last will expire soon, and how to renew it; empty: nothing. It expires in
// the last tenth of its life, 30 days at most.
func (s *Store) Expiring() string {
	now, _ := s.o.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.expiry {
		if !v.last.IsZero() && !now.Before(v.warn) {
			return fmt.Sprintf("%s expires at %s. %s", v.what, stamp(v.last), v.remedy)
		}
	}
	return ""
}

// Changed says whether a file is another one than when the credentials were last read.
func (s *Store) Changed() bool {
	now := [2]string{s.state(groupTLS), s.state(groupLogin)}
	s.mu.Lock()
	defer s.mu.Unlock()
	for group, state := range now {
		if s.seen[group] != "" && s.seen[group] != state {
			return true
		}
	}
	return false
}

// state is what stat(2) says of the files: a rename over one shows as another inode, an edit as another time.
func (s *Store) state(group int) string {
	var text strings.Builder
	for _, name := range [2][]string{
		groupTLS:   {s.o.CA, s.o.Cert, s.o.Key, s.o.PKCS12, s.o.PKCS12Password},
		groupLogin: {s.o.User, s.o.Password, s.o.Token.File},
	}[group] {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			text.WriteString("none\n")
			continue
		}
		inode := uint64(0)
		if system, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = system.Ino
		}
		fmt.Fprintf(&text, "%d %d %d\n", inode, info.Size(), info.ModTime().UnixNano())
	}
	return text.String()
}

// UserName is the file's first line.
func (s *Store) UserName() (string, error) {
	s.begin(groupLogin)
	name, err := firstLine(s.o.User)
	if err != nil {
		return "", wrong("user_file", err)
	}
	return name, nil
}

// PasswordOrToken is what goes into CONNECT as the password.
func (s *Store) PasswordOrToken() (string, error) {
	s.begin(groupLogin)
	if s.o.Token.set() {
		return s.readToken()
	}
	if s.o.PasswordEnv != "" {
		password, err := fromEnvironment(s.o.PasswordEnv)
		if err != nil {
			return "", wrong("password_env", err)
		}
		return password, nil
	}
	password, err := firstLine(s.o.Password)
	if err != nil {
		return "", wrong("password_file", err)
	}
	return password, nil
}

// fromEnvironment reads a secret; the error never shows it.
func fromEnvironment(name string) (string, error) {
	value := os.Getenv(name)
	if value == "" {
		return "", fmt.Errorf("the environment has no %s", name)
	}
	return value, nil
}

// firstLine reads a secret; the error never shows it.
func firstLine(file string) (string, error) {
	text, err := readFile(file)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimRight(line, "\r"); line == "" {
		return "", errors.New(file + " is empty")
	}
	return line, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return text, err
}

// wrong is a credential that cannot be read. A change of the file ends the wait.
func wrong(key string, err error) error {
	return &uplink.CredentialError{Text: key, Err: err}
}
