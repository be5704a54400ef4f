package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/uplink/command"
)

// makeKey writes NAME.key and NAME.pub.
func makeKey(name string) (command.KeyID, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return command.KeyID{}, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return command.KeyID{}, err
	}
	open, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return command.KeyID{}, err
	}
	if err := writeNew(name+".key", 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})); err != nil {
		return command.KeyID{}, err
	}
	return command.IDOf(public), writeNew(name+".pub", 0o644, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: open}))
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, mode os.FileMode, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// readKey reads a private key that nobody else can read. No error shows any of it.
func readKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("--key %s: others may read it (mode %04o); chmod 600, and think of who has", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("--key %s: no PEM block PRIVATE KEY; give the .key file that keygen made", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("--key %s: not a PKCS #8 key", path)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("--key %s: not an Ed25519 key", path)
	}
	return key, nil
}

// nextCounter counts the commands of a key, durably, in NAME.counter beside NAME.key. It is never below the present in milliseconds, so that a
// file that is lost, or a copy of the key elsewhere, does not make vehicles refuse what follows.
func nextCounter(keyFile string, now time.Time) (n uint64, err error) {
	lock, err := os.Open(keyFile)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return 0, fmt.Errorf("locking %s: %w", keyFile, err)
	}
	path := strings.TrimSuffix(keyFile, ".key") + ".counter"
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if err == nil {
		if n, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return 0, fmt.Errorf("%s: %w; remove it: the counter goes on with the time", path, err)
		}
	}
	n = max(n+1, uint64(max(now.UnixMilli(), 1)))
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return 0, err
	}
	_, err = fmt.Fprintln(temp, n)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return 0, errors.Join(err, os.Remove(temp.Name()))
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	defer folder.Close()
	return n, folder.Sync()
}
