package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/postgres"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// storeFlags say where the store is.
type storeFlags struct {
	db, passwordFile string
}

func (f *storeFlags) register(cmd *cobra.Command) { registerStore(cmd, &f.db, &f.passwordFile, "") }

func registerStore(cmd *cobra.Command, db, passwordFile *string, made string) {
	flags := cmd.Flags()
	flags.StringVar(db, "db", "", "store: a SQLite file, or postgres://USER@HOST:PORT/NAME"+made)
	flags.StringVar(passwordFile, "db-password-file", "", "file that holds the database's password (default: what the file named by PGPASSFILE says)")
}

// openStore opens either kind. An error of the flags is one of usage.
func openStore(ctx context.Context, f storeFlags, readOnly, restored bool, log *slog.Logger) (store.Store, error) {
	if f.db == "" {
		return nil, cli.UsageError(errors.New("--db is needed: the file that holds the store, or postgres://USER@HOST:PORT/NAME"))
	}
	u, isURL, err := f.postgres()
	if err != nil {
		return nil, cli.UsageError(err)
	}
	if !isURL {
		s, err := store.Open(ctx, f.db, store.Options{ReadOnly: readOnly, Restored: restored, Rand: rand.Reader, Log: log})
		if err != nil { // not a nil pointer in an interface
			return nil, err
		}
		return s, nil
	}
	o := postgres.Options{ReadOnly: readOnly, Restored: restored, Rand: rand.Reader, Log: log}
	if f.passwordFile != "" {
		text, err := os.ReadFile(f.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("--db-password-file: %w", err)
		}
		o.Password = strings.TrimRight(string(text), "\r\n")
	}
	s, err := postgres.Open(ctx, u, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// postgres says whether --db is a database's URL, and gives it with verified TLS unless it says otherwise or stays on this machine.
func (f *storeFlags) postgres() (database string, isURL bool, err error) {
	scheme, _, found := strings.Cut(f.db, "://")
	if !found {
		if f.passwordFile != "" {
			return "", false, errors.New("--db-password-file: a file has no password; it belongs to a --db postgres://USER@HOST:PORT/NAME")
		}
		return "", false, nil
	}
	if scheme != "postgres" && scheme != "postgresql" {
		return "", false, errors.New("--db: want a file, or a URL postgres://USER@HOST:PORT/NAME")
	}
	u, err := url.Parse(f.db)
	if err != nil {
		return "", false, errors.New("--db: no URL such as postgres://USER@HOST:PORT/NAME") // what url says may hold a password
	}
	q := u.Query()
	if _, secret := u.User.Password(); secret || q.Has("password") {
		return "", false, errors.New("--db: no password in the URL, others can read a command line; use --db-password-file, or PGPASSFILE")
	}
	host := u.Hostname()
	if q.Has("host") {
		host = q.Get("host")
	}
	if host != "" && !isLoopback(host) && !strings.HasPrefix(host, "/") && !q.Has("sslmode") && os.Getenv("PGSSLMODE") == "" {
		q.Set("sslmode", "verify-full")
		u.RawQuery = q.Encode()
	}
	return u.String(), true, nil
}

// isDatabase says whether --db is the URL of a database.
func (f *storeFlags) isDatabase() bool {
	_, isURL, err := f.postgres()
	return err == nil && isURL
}
