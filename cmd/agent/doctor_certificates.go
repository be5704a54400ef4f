package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// Problems of certificates and keys.
const (
	problemCertExpired  = "certificate-expired"
	problemCertEarly    = "certificate-not-yet-valid"
	problemCertSoon     = "certificate-expires-soon"
	problemCertNone     = "certificate-unreadable"
	problemAuthority    = "authority-expired"
	problemKeyUnfit     = "key-does-not-fit"
	problemSecretForAll = "secret-readable-by-all"
)

// certificateSoon is how long before its end a certificate is worth a word.
const certificateSoon = 21 * 24 * time.Hour

// certificates looks at the files of credentials: their dates, whether the key is the certificate's, and who may read
// what is secret. What the broker says of them is the uplink's part.
func (d *device) certificates() {
	o := &d.settings.Uplink.Credentials
	now := d.now()
	told := false
	for _, file := range []string{o.Key, o.PKCS12, o.PKCS12Password, o.Password, o.Token.File} {
		if info, err := os.Stat(file); file != "" && err == nil && info.Mode().Perm()&0o004 != 0 {
			told = true
			d.warn(stepCertificates, problemSecretForAll, fmt.Sprintf("everybody on this computer may read %s (%v)", file,
				info.Mode().Perm()), "chmod 0640 "+file+", with the agent's group")
		}
	}
	if o.CA != "" {
		told = d.authorities(o.CA, now) || told
	}
	if o.Cert != "" {
		told = d.ownCertificate(o.Cert, o.Key, now) || told
	}
	switch {
	case told:
	case o.Cert == "" && o.CA == "":
		d.skip(stepCertificates, "no files of certificates are configured")
	default:
		d.ok(stepCertificates, "all dates are good on %s", now.UTC().Format(time.DateOnly))
	}
}

// authorities looks at those that may sign the broker's certificate: one that is good is enough.
func (d *device) authorities(file string, now time.Time) (told bool) {
	list, err := readCertificates(file)
	if err != nil {
		d.fail(stepCertificates, problemCertNone, err.Error(), "ca: wants certificates in PEM form; openssl x509 -inform der "+
			"-in FILE converts")
		return true
	}
	for _, c := range list {
		if now.Before(c.NotAfter) && !now.Before(c.NotBefore) {
			return false
		}
	}
	d.fail(stepCertificates, problemAuthority, fmt.Sprintf("no authority in %s is valid on %s; %s was valid from %s to %s",
		file, now.UTC().Format(time.DateOnly), list[0].Subject,
		list[0].NotBefore.UTC().Format(time.DateOnly), list[0].NotAfter.UTC().Format(time.DateOnly)),
		"put the authority's newer certificate there; if the date above is wrong, set the clock first")
	return true
}

// ownCertificate looks at the vehicle's certificate, and at its key where that is a file.
func (d *device) ownCertificate(cert, key string, now time.Time) (told bool) {
	list, err := readCertificates(cert)
	if err != nil {
		d.fail(stepCertificates, problemCertNone, err.Error(), "cert: wants certificates in PEM form, the vehicle's own first")
		return true
	}
	leaf := list[0]
	until := fmt.Sprintf("%s, the certificate of %s, is valid from %s to %s, and it is %s", cert, leaf.Subject,
		leaf.NotBefore.UTC().Format(time.DateOnly), leaf.NotAfter.UTC().Format(time.DateOnly), now.UTC().Format(time.DateOnly))
	switch {
	case now.After(leaf.NotAfter):
		d.fail(stepCertificates, problemCertExpired, until, "have a new one signed, with the same name, and put it in its "+
			"place: the agent takes it without a restart")
	case now.Before(leaf.NotBefore):
		d.fail(stepCertificates, problemCertEarly, until, "set the clock; if it is right, the authority's is not")
	case leaf.NotAfter.Sub(now) < min(certificateSoon, leaf.NotAfter.Sub(leaf.NotBefore)/10):
		d.warn(stepCertificates, problemCertSoon, until, "have a new one signed, with the same name, and put it in its place: "+
			"the agent takes it without a restart")
	default:
		if key == "" {
			return false
		}
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil && !errors.Is(err, os.ErrPermission) { // which credentials says
			d.fail(stepCertificates, problemKeyUnfit, fmt.Sprintf("%s and %s: %v", cert, key, err),
				"put the key there that the certificate was requested with")
			return true
		}
		return false
	}
	return true
}

// readCertificates reads a PEM file of at least one certificate.
func readCertificates(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: no certificate in it", file)
	}
	return list, nil
}
