package credential_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink/credential"
)

const tpmHandle = 0x81000123

// openTPM starts a software TPM with a P-256 key under tpmHandle.
func openTPM(t *testing.T) func() (transport.TPMCloser, error) {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "tpm")
	cmd := deps.Program(t, "swtpm", "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--flags", "not-need-init,startup-clear")
	for i, e := range cmd.Env { // its own library is in a folder of its own
		if paths, ok := strings.CutPrefix(e, "LD_LIBRARY_PATH="); ok {
			for _, p := range strings.Split(paths, ":") {
				cmd.Env[i] += ":" + filepath.Join(p, "swtpm")
			}
		}
	}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("swtpm: %s", output.String())
		}
	})
	// One connection at a time serves all, as the kernel's resource manager serves all who open it.
	var tpm transport.TPMCloser
	var err error
	for until := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if tpm, err = linuxudstpm.Open(socket); err == nil || time.Now().After(until) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tpm.Close() })
	template := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull}, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull}}),
	}
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name},
		PersistentHandle: tpmHandle}).Execute(tpm); err != nil {
		t.Fatal(err)
	}
	return func() (transport.TPMCloser, error) { return keptOpen{tpm}, nil }
}

type keptOpen struct{ transport.TPM }

func (keptOpen) Close() error { return nil }

// TestTPM: a key that is in a TPM opens the broker, in either version of TLS; one of another certificate does not.
func TestTPM(t *testing.T) {
	open := openTPM(t)
	key := credential.TPM{Open: open, Handle: tpmHandle}
	signer, err := key.Signer(nil)
	if err != nil {
		t.Fatal(err)
	}
	digest := make([]byte, 32)
	signature, err := signer.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(signer.Public().(*ecdsa.PublicKey), digest, signature) {
		t.Fatalf("the signature does not verify; %v", err)
	}
	if _, err := signer.Sign(rand.Reader, digest[:16], crypto.MD5); err == nil {
		t.Error("MD5 was signed")
	}
	if _, err := (credential.TPM{Open: open, Handle: tpmHandle + 1}).Signer(nil); err == nil || !strings.Contains(err.Error(), "no key under that handle") {
		t.Errorf("a handle of nothing: %v", err)
	}

	f := newFixture(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "car-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, f.ca.Cert, signer.Public(), f.ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	o := f.options()
	o.Key, o.Signer = "", key.Signer
	f.write("car.pem", certs.Pair{Cert: cert}.CertPEM())
	f.once(o)
	f.write("car.pem", f.mine.CertPEM())
	f.start(o).refused("uplink.credentials", "not the certificate's")
}
