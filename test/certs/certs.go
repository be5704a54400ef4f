// Package certs makes the certificates that tests show each other: authorities, and leaves for 127.0.0.1 that serve and
// ask. Nothing of it outlives a test.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Pair is a certificate with its key.
type Pair struct {
	t    testing.TB
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Authority signs certificates.
type Authority struct{ Pair }

// NewAuthority makes an authority that is valid from three days ago to two days ahead.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{Pair{t: t}}
	a.Pair = a.sign(name, time.Now().Add(-72*time.Hour), time.Now().Add(48*time.Hour), true)
	return a
}

// Leaf signs for a common name, from an hour ago to a day ahead.
func (a *Authority) Leaf(name string) Pair {
	return a.Sign(name, time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
}

// Sign signs for a common name and a time.
func (a *Authority) Sign(name string, from, to time.Time) Pair {
	a.t.Helper()
	return a.sign(name, from, to, false)
}

func (a *Authority) sign(name string, from, to time.Time, isCA bool) Pair {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		BasicConstraintsValid: true, IsCA: isCA, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"broker.test"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.Cert, a.Key
	if isCA {
		template.KeyUsage, parent, signer = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return Pair{a.t, cert, key}
}

// Pool holds the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// CertPEM is the certificate as files have it.
func (p Pair) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Cert.Raw})
}

// KeyPEM is the key as files have it, PKCS #8.
func (p Pair) KeyPEM() []byte {
	p.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		p.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// TLS is the pair for a tls.Config.
func (p Pair) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.Cert.Raw}, PrivateKey: p.Key}
}

// Write writes NAME.pem and NAME.key into a folder, the key for its owner alone.
func (p Pair) Write(dir, name string) (cert, key string) {
	p.t.Helper()
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for path, text := range map[string][]byte{cert: p.CertPEM(), key: p.KeyPEM()} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	return cert, key
}
