package command

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// KeyID names a public key: the first 8 bytes of the SHA-256 of its 32 bytes.
type KeyID [8]byte

// IDOf is the name of a public key.
func IDOf(key ed25519.PublicKey) (id KeyID) {
	sum := sha256.Sum256(key)
	copy(id[:], sum[:])
	return id
}

// String is the id in hexadecimal.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// Keys are the keys whose commands are believed, by name.
type Keys map[KeyID]ed25519.PublicKey

// Add takes one key more.
func (k Keys) Add(key ed25519.PublicKey) { k[IDOf(key)] = key }

// ErrKey: bytes that are no Ed25519 public key.
var ErrKey = errors.New("no Ed25519 public key")

// ParsePublic reads a public key: a PEM block PUBLIC KEY (RFC 8410, as `openssl pkey -pubout` writes it), or 32 bytes in base64.
func ParsePublic(text []byte) (ed25519.PublicKey, error) {
	if block, _ := pem.Decode(text); block != nil {
		if block.Type != "PUBLIC KEY" { // above all: never repeat what may be a private one
			return nil, fmt.Errorf("%w: the PEM block is %q, want PUBLIC KEY", ErrKey, block.Type)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKey, err)
		}
		key, ok := parsed.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("%w: it is one of another kind (%T)", ErrKey, parsed)
		}
		return key, nil
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: want a PEM block PUBLIC KEY, or %d bytes in base64", ErrKey, ed25519.PublicKeySize)
	}
	return raw, nil
}
