package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/httpin"
	"github.com/waybill-telematics/waybill/fleet/ingest"
)

// httpFlags are the flags of serve for ingestion by HTTP.
type httpFlags struct {
	address, cert, key, clientCA, tokens string
}

func (f *httpFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.address, "http", "", "take batches by HTTP too, or without --broker alone, on this address, 127.0.0.1:PORT; elsewhere only with a certificate and a way to tell who sends")
	flags.StringVar(&f.cert, "http-cert", "", "PEM file of this server's certificate for --http; read again when it changes")
	flags.StringVar(&f.key, "http-key", "", "PEM file of its key")
	flags.StringVar(&f.clientCA, "http-client-ca", "", "PEM file of the authorities of client certificates: the common name is the device, the organisation its tenant (default: --tenant)")
	flags.StringVar(&f.tokens, "http-tokens", "", "file of bearer tokens, a line each: TENANT: SHA-256 of the token in hex, TENANT * for a broker's webhook; read again when it changes")
}

// options checks the flags and makes options of them; nil without --http.
func (f *httpFlags) options(tenant string, log *slog.Logger) (*httpin.Options, error) {
	if f.address == "" {
		if f.cert+f.key+f.clientCA+f.tokens != "" {
			return nil, errors.New("--http-… flags without --http ADDRESS: nothing would listen")
		}
		return nil, nil
	}
	o := &httpin.Options{Tenant: tenant, Log: log}
	var err error
	if o.TLS, err = f.tls(); err != nil {
		return nil, err
	}
	if f.tokens != "" {
		if o.Tokens, err = httpin.OpenTokens(f.tokens, log); err != nil {
			return nil, fmt.Errorf("--http-tokens: %w", err)
		}
	}
	if err := o.Check(f.address); err != nil {
		return nil, fmt.Errorf("--http: %w", err)
	}
	return o, nil
}

// server makes the server and what it listens on; nil when o is.
func (f *httpFlags) server(ctx context.Context, o *httpin.Options, a ingest.Applier) (*httpin.Server, net.Listener, error) {
	if o == nil {
		return nil, nil, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", f.address)
	if err != nil {
		return nil, nil, fmt.Errorf("--http: %w", err)
	}
	return httpin.New(*o, a), l, nil
}

func (f *httpFlags) tls() (*tls.Config, error) {
	switch {
	case (f.cert == "") != (f.key == ""):
		return nil, errors.New("--http-cert and --http-key belong together")
	case f.cert == "" && f.clientCA != "":
		return nil, errors.New("--http-client-ca: client certificates need TLS; give --http-cert and --http-key too")
	case f.cert == "":
		return nil, nil
	}
	pair := &renewedPair{cert: f.cert, key: f.key}
	if _, err := pair.get(nil); err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get}
	if f.clientCA != "" {
		pem, err := os.ReadFile(f.clientCA)
		if err != nil {
			return nil, fmt.Errorf("--http-client-ca: %w", err)
		}
		c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven // who shows none needs a token
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--http-client-ca %s: no certificate in it (PEM is expected)", f.clientCA)
		}
	}
	return c, nil
}

// renewedPair is a certificate whose files may be replaced while it is in use.
type renewedPair struct {
	cert, key string

	mu     sync.Mutex // guards what follows
	looked time.Time
	stamp  time.Time // of the file that pair is from
	pair   *tls.Certificate
}

// get reads the files again when they changed, at most once a second. A pair that cannot be read leaves the last good one:
// certificate and key are rarely replaced in the same instant.
func (p *renewedPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.looked) >= time.Second {
		p.looked = now
		info, err := os.Stat(p.cert)
		if err == nil && p.pair != nil && info.ModTime().Equal(p.stamp) {
			return p.pair, nil
		}
		pair, err := tls.LoadX509KeyPair(p.cert, p.key)
		switch {
		case err == nil && info != nil:
			p.pair, p.stamp = &pair, info.ModTime()
		case p.pair == nil:
			return nil, fmt.Errorf("--http-cert %s, --http-key %s: %w", p.cert, p.key, err)
		}
	}
	return p.pair, nil
}
