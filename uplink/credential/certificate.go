package credential

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/waybill-telematics/waybill/uplink"
)

// readPKCS12 reads certificate, intermediates and key from one file (RFC 7292).
func (s *Store) readPKCS12() (*tls.Certificate, error) {
	data, err := readFile(s.o.PKCS12)
	if err != nil {
		return nil, wrong("pkcs12", err)
	}
	password := ""
	switch {
	case s.o.PKCS12PasswordEnv != "":
		if password, err = fromEnvironment(s.o.PKCS12PasswordEnv); err != nil {
			return nil, wrong("pkcs12_password_env", err)
		}
	case s.o.PKCS12Password != "":
		if password, err = firstLine(s.o.PKCS12Password); err != nil {
			return nil, wrong("pkcs12_password_file", err)
		}
	}
	key, leaf, chain, err := decodePKCS12(data, password)
	if errors.Is(err, pkcs12.ErrIncorrectPassword) {
		return nil, wrong("pkcs12", fmt.Errorf("%s does not open with the password that was given", s.o.PKCS12))
	}
	if err != nil {
		return nil, wrong("pkcs12", fmt.Errorf("%s: %w", s.o.PKCS12, err))
	}
	pair := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, c := range chain {
		if c.Subject.String() != c.Issuer.String() { // the broker has the roots
			pair.Certificate = append(pair.Certificate, c.Raw)
		}
	}
	if err := matches(leaf, key); err != nil {
		return nil, wrong("pkcs12", fmt.Errorf("%s: %w", s.o.PKCS12, err))
	}
	return pair, nil
}

// decodePKCS12 keeps what a broken file can do to the decoder from the rest of the agent.
func decodePKCS12(data []byte, password string) (key any, leaf *x509.Certificate, chain []*x509.Certificate, err error) {
	defer func() {
		if wrong := recover(); wrong != nil {
			err = fmt.Errorf("not a PKCS#12 file: %v", wrong)
		}
	}()
	key, leaf, chain, err = pkcs12.DecodeChain(data, password)
	return key, leaf, chain, err
}

// signed joins a certificate to a key that is elsewhere.
func (s *Store) signed(text []byte) (*tls.Certificate, error) {
	pair := &tls.Certificate{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			pair.Certificate = append(pair.Certificate, block.Bytes)
		}
	}
	if len(pair.Certificate) == 0 {
		return nil, wrong("cert", fmt.Errorf("%s holds no PEM certificate", s.o.Cert))
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, wrong("cert", fmt.Errorf("%s: %w", s.o.Cert, err))
	}
	signer, err := s.o.Signer(leaf)
	if err == nil {
		err = matches(leaf, signer)
	}
	if err != nil {
		return nil, wrong("the key of "+s.o.Cert, err)
	}
	pair.Leaf, pair.PrivateKey = leaf, signer
	return pair, nil
}

// matches says whether a key is a certificate's.
func matches(leaf *x509.Certificate, key any) error {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return fmt.Errorf("a key of type %T cannot sign", key)
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return errors.New("the key is not the certificate's")
	}
	return nil
}

// ParsePin reads the SHA-256 of a public key: sha256/ and base64 as curl and HPKP write it, or 64 hexadecimal digits.
func ParsePin(text string) (pin [32]byte, err error) {
	var b []byte
	if encoded, ok := strings.CutPrefix(text, "sha256/"); ok {
		b, err = base64.StdEncoding.DecodeString(encoded)
	} else {
		b, err = hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	}
	if err != nil || len(b) != len(pin) {
		return pin, fmt.Errorf("want sha256/ and 44 characters of base64, or 64 hexadecimal digits, got %q", text)
	}
	return [32]byte(b), nil
}

// Pin is the SHA-256 of a certificate's public key (its SubjectPublicKeyInfo), as RFC 7469 §2.4 has it.
func Pin(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func pinText(pin [32]byte) string { return "sha256/" + base64.StdEncoding.EncodeToString(pin[:]) }

// pinned demands that the chain, which was verified already, holds one of the pinned keys. Unlike
// VerifyPeerCertificate it is asked for resumed sessions too.
func (s *Store) pinned(state tls.ConnectionState) error {
	var shown []string
	for _, chain := range state.VerifiedChains {
		for _, c := range chain {
			pin := Pin(c)
			for _, want := range s.o.Pins {
				if pin == want {
					return nil
				}
			}
			shown = append(shown, fmt.Sprintf("%s of %q", pinText(pin), c.Subject))
		}
	}
	return &uplink.TrustError{Text: fmt.Sprintf("none of its keys is among the %d of ca_pins: it shows %s. Where that is the right broker, its authority has a new key: add the new pin",
		len(s.o.Pins), strings.Join(shown, ", "))}
}
