package credential

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// TPM is an elliptic curve key that a TPM 2.0 keeps under a persistent handle, without an authorisation value: it signs
// and never leaves.
type TPM struct {
	Open   func() (transport.TPMCloser, error) // for each operation anew: others use the TPM too
	Handle uint32                              // 0x81000000 to 0x81FFFFFF
}

// The curves, hashes and sizes of ECDSA in TLS 1.3 (RFC 8446 §4.2.3).
var tpmHashes = map[crypto.Hash]tpm2.TPMAlgID{crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512}

// Signer reads the key's public part, for Options.Signer.
func (t TPM) Signer(*x509.Certificate) (crypto.Signer, error) {
	s := &tpmSigner{tpm: t}
	return s, t.do(func(tpm transport.TPM) error {
		answer, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(t.Handle)}.Execute(tpm)
		if err != nil {
			return fmt.Errorf("there is no key under that handle: %w", err)
		}
		public, err := answer.OutPublic.Contents()
		if err != nil {
			return err
		}
		s.name = answer.Name
		parms, err := public.Parameters.ECCDetail()
		if err != nil || public.Type != tpm2.TPMAlgECC {
			return errors.New("its key is not one of elliptic curves")
		}
		curve, err := parms.CurveID.Curve()
		if err != nil {
			return err
		}
		point, err := public.Unique.ECC()
		if err != nil {
			return err
		}
		s.public = &ecdsa.PublicKey{Curve: curve, X: new(big.Int).SetBytes(point.X.Buffer), Y: new(big.Int).SetBytes(point.Y.Buffer)}
		return nil
	})
}

// do does one thing with the TPM.
func (t TPM) do(each func(transport.TPM) error) error {
	tpm, err := t.Open()
	if err == nil {
		err = errors.Join(each(tpm), tpm.Close())
	}
	if err != nil {
		return fmt.Errorf("TPM, handle %#x: %w", t.Handle, err)
	}
	return nil
}

// tpmSigner is a key in a TPM.
type tpmSigner struct {
	tpm    TPM
	name   tpm2.TPM2BName
	public *ecdsa.PublicKey
}

func (s *tpmSigner) Public() crypto.PublicKey { return s.public }

// Sign has the TPM sign a digest; its randomness is its own.
func (s *tpmSigner) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) (signature []byte, err error) {
	hash, ok := tpmHashes[o.HashFunc()]
	if !ok {
		return nil, fmt.Errorf("TPM, handle %#x: it does not sign %v", s.tpm.Handle, o.HashFunc())
	}
	err = s.tpm.do(func(tpm transport.TPM) error {
		answer, err := tpm2.Sign{
			KeyHandle: tpm2.NamedHandle{Handle: tpm2.TPMHandle(s.tpm.Handle), Name: s.name},
			Digest:    tpm2.TPM2BDigest{Buffer: digest},
			InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: hash})},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(tpm)
		if err != nil {
			return err
		}
		pair, err := answer.Signature.Signature.ECDSA()
		if err != nil {
			return err
		}
		signature, err = asn1.Marshal(struct{ R, S *big.Int }{
			new(big.Int).SetBytes(pair.SignatureR.Buffer), new(big.Int).SetBytes(pair.SignatureS.Buffer)})
		return err
	})
	return signature, err
}
