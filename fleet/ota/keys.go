package ota

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Key signs metadata. Its name is for people: image-root-1.
type Key struct {
	Public
	private ed25519.PrivateKey
}

// Public is what others need of a key.
type Public struct {
	Name string
	Key  *metadata.Key
	ID   string // SHA-256 of the key's canonical JSON, hexadecimal (TUF 1.0 §4.2)
}

// NewKey makes an Ed25519 key.
func NewKey(name string, random io.Reader) (*Key, error) {
	_, private, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, err
	}
	return keyOf(name, private)
}

func keyOf(name string, private ed25519.PrivateKey) (*Key, error) {
	public, err := publicOf(name, private.Public().(ed25519.PublicKey))
	return &Key{public, private}, err
}

func publicOf(name string, raw ed25519.PublicKey) (Public, error) {
	key, err := metadata.KeyFromPublicKey(raw)
	if err != nil {
		return Public{}, err
	}
	id, err := key.ID()
	return Public{name, key, id}, err
}

// storedKey is a key in a file: TUF's form of a key and its name.
type storedKey struct {
	Name   string `json:"name"`
	Type   string `json:"keytype"`
	Scheme string `json:"scheme"`
	Value  struct {
		Public  string `json:"public"`
		Private string `json:"private,omitempty"` // RFC 8032's 32 bytes, hexadecimal
	} `json:"keyval"`
}

func (p *Public) stored() storedKey {
	s := storedKey{Name: p.Name, Type: p.Key.Type, Scheme: p.Key.Scheme}
	s.Value.Public = p.Key.Value.PublicKey
	return s
}

func (s *storedKey) public() (Public, error) {
	raw, err := hex.DecodeString(s.Value.Public)
	if s.Type != metadata.KeyTypeEd25519 || err != nil || len(raw) != ed25519.PublicKeySize {
		return Public{}, fmt.Errorf("key %.40q is not an Ed25519 key; this tool signs with no other", s.Name)
	}
	if err := checkWord("a key's name", s.Name); err != nil {
		return Public{}, err
	}
	return publicOf(s.Name, raw)
}

// keyFile is one holder's keys: the container of TUF's earlier Go tools. data is a list of keys, or that list encrypted
// by scrypt and NaCl's secretbox as go-securesystemslib does.
type keyFile struct {
	Encrypted bool            `json:"encrypted"`
	Data      json.RawMessage `json:"data"`
}

// What a file of keys may have at most, in bytes.
const maxKeyFile = 1 << 20

// SealKeys makes the content of a file of keys. Without a passphrase they are not encrypted: for a bench only.
func SealKeys(keys []*Key, passphrase []byte) ([]byte, error) {
	return sealKeys(keys, passphrase, encrypted.Standard)
}

func sealKeys(keys []*Key, passphrase []byte, strength encrypted.KDFParameterStrength) ([]byte, error) {
	list := make([]storedKey, len(keys))
	for i, k := range keys {
		list[i] = k.stored()
		list[i].Value.Private = hex.EncodeToString(k.private.Seed())
	}
	f := keyFile{Encrypted: len(passphrase) > 0}
	var err error
	if f.Encrypted {
		f.Data, err = encrypted.MarshalWithCustomKDFParameters(list, passphrase, strength)
	} else {
		f.Data, err = json.Marshal(list)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(f)
}

// OpenKeys reads what SealKeys made. passphrase is asked only if the keys are encrypted. No error shows any of them.
func OpenKeys(data []byte, passphrase func() ([]byte, error)) ([]*Key, error) {
	var f keyFile
	if err := json.Unmarshal(data, &f); err != nil || len(f.Data) == 0 {
		return nil, errors.New("it is not a file of keys as `ota init` and `ota key` make them")
	}
	var list []storedKey
	if f.Encrypted {
		secret, err := passphrase()
		if err != nil {
			return nil, err
		}
		if err := encrypted.Unmarshal(f.Data, &list, secret); err != nil {
			return nil, errors.New("the passphrase is not this file's, or the file is damaged")
		}
	} else if err := json.Unmarshal(f.Data, &list); err != nil {
		return nil, errors.New("its keys cannot be read")
	}
	keys := make([]*Key, len(list))
	for i := range list {
		seed, err := hex.DecodeString(list[i].Value.Private)
		if err != nil || len(seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("key %.40q has no private half", list[i].Name)
		}
		public, err := list[i].public()
		if err != nil {
			return nil, err
		}
		if keys[i], err = keyOf(list[i].Name, ed25519.NewKeyFromSeed(seed)); err != nil {
			return nil, err
		}
		if keys[i].ID != public.ID {
			return nil, fmt.Errorf("key %.40q: its two halves do not belong together", list[i].Name)
		}
	}
	return keys, nil
}

// ReadKeys reads a file of keys that nobody but its owner may read.
func ReadKeys(path string, passphrase func() ([]byte, error)) ([]*Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: others may read it (mode %04o); chmod 600, and think of who has", path, info.Mode().Perm())
	}
	data, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	keys, err := OpenKeys(data, passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// WriteKeys writes a file of keys that is not there yet, and beside it FILE.pub, what others need of them.
func WriteKeys(path string, keys []*Key, passphrase []byte) error {
	data, err := SealKeys(keys, passphrase)
	if err != nil {
		return err
	}
	public := make([]storedKey, len(keys))
	for i, k := range keys {
		public[i] = k.stored()
	}
	open, err := json.MarshalIndent(public, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := writeNew(path, 0o600, data); err != nil {
		return err
	}
	return writeNew(path+".pub", 0o644, append(open, '\n'))
}

// ReadPublic reads FILE.pub.
func ReadPublic(path string) ([]Public, error) {
	data, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	var list []storedKey
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: it is not a file of public keys: %w", path, err)
	}
	public := make([]Public, len(list))
	for i := range list {
		if public[i], err = list[i].public(); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return public, nil
}

// checkWord holds what becomes a file's name or a role's: letters, digits, dots inside, "-" and "_", at most 100 bytes.
func checkWord(what, word string) error {
	if word == "" || len(word) > 100 || word[0] == '.' || word[0] == '-' {
		return fmt.Errorf("%s is %.40q: want 1 to 100 letters, digits, '-', '_' and '.', beginning with a letter or digit", what, word)
	}
	for _, c := range []byte(word) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return fmt.Errorf("%s is %.40q: %q may not stand in it, only letters, digits, '-', '_' and '.'", what, word, c)
		}
	}
	return nil
}
