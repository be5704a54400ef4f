package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/page"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// pageFlags are the flags of the page and the read API, as given.
type pageFlags struct {
	listen, tokens, cert, key string
	tiles, credit             string
}

func (f *pageFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "page", "", "serve the fleet page and the read API on this address, such as 127.0.0.1:8080 (default: not at all)")
	flags.StringVar(&f.tokens, "page-tokens", "", "file of lines `TENANT: SHA256` of tokens, `erase` behind those that may erase; read again when it changes. Without it everybody on this machine may read")
	flags.StringVar(&f.cert, "page-cert", "", "PEM file of the page's certificate")
	flags.StringVar(&f.key, "page-key", "", "PEM file of its key")
	flags.StringVar(&f.tiles, "page-tiles", "", "address of map tiles, such as https://tiles.example/{z}/{x}/{y}.png; browsers ask that host (default: a plain grid, no other host)")
	flags.StringVar(&f.credit, "page-tiles-credit", "", "who made the tiles, shown on the map")
}

// check refuses what would show vehicles to strangers.
func (f *pageFlags) check() error {
	if f.listen == "" {
		if f.tokens != "" || f.cert != "" || f.key != "" || f.tiles != "" || f.credit != "" {
			return errors.New("--page-tokens, --page-cert, --page-key, --page-tiles and --page-tiles-credit are for --page; give it an address")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return fmt.Errorf("--page %q: want an address such as 127.0.0.1:8080", f.listen)
	}
	if (f.cert == "") != (f.key == "") {
		return errors.New("--page-cert and --page-key belong together")
	}
	if !isLoopback(host) && (f.tokens == "" || f.cert == "") {
		return fmt.Errorf("--page %q: others could reach it; add --page-tokens, --page-cert and --page-key, or listen on 127.0.0.1", f.listen)
	}
	return nil
}

// askable is a store that answers the page and erases.
type askable interface {
	Reads() api.Reader
	api.Eraser
}

// start serves until the returned function is called. It does nothing without an address.
func (f *pageFlags) start(ctx context.Context, s store.Store, log *slog.Logger) (stop func(), err error) {
	if f.listen == "" {
		return func() {}, nil
	}
	asked, ok := s.(askable)
	if !ok {
		return nil, cli.UsageError(errors.New("--page: this store does not answer the page's questions; leave --page out"))
	}
	o := api.Options{Reader: asked.Reads(), Eraser: asked, Log: log}
	if f.tokens != "" {
		if o.Access, err = api.OpenTokens(f.tokens); err != nil {
			return nil, fmt.Errorf("--page-tokens: %w", err)
		}
	}
	answers, err := api.New(o)
	if err != nil {
		return nil, err
	}
	pages, err := page.Handler(page.Options{Tiles: f.tiles, TilesCredit: f.credit})
	if err != nil {
		return nil, cli.UsageError(fmt.Errorf("--page-tiles: %w", err))
	}
	mux := http.NewServeMux()
	mux.Handle(api.Prefix+"/", answers)
	mux.Handle("/", pages)
	ctx, cancel := context.WithCancel(ctx)
	server := &http.Server{
		Handler: f.onlyHere(mux), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext: func(net.Listener) context.Context { return ctx }, // live streams end with it
	}
	listener, err := net.Listen("tcp", f.listen)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("--page %s: %w", f.listen, err)
	}
	scheme := "http"
	done := make(chan error, 1)
	if f.cert != "" {
		scheme = "https"
		go func() { done <- server.ServeTLS(listener, f.cert, f.key) }()
	} else {
		go func() { done <- server.Serve(listener) }()
	}
	log.Info("the fleet page is served", "url", scheme+"://"+listener.Addr().String()+"/")
	return func() {
		cancel()
		bound, release := context.WithTimeout(context.Background(), 5*time.Second)
		defer release()
		if err := server.Shutdown(bound); err != nil {
			server.Close()
		}
		if err := <-done; err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("the fleet page failed", "error", err)
		}
	}, nil
}

// onlyHere refuses, where nobody is asked for a token, what a foreign site has a browser on this machine ask for: such a request names
// another host than this machine (DNS rebinding), or comes from another origin.
func (f *pageFlags) onlyHere(next http.Handler) http.Handler {
	if f.tokens != "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		host, _, err := net.SplitHostPort(q.Host)
		if err != nil {
			host = q.Host
		}
		if site := q.Header.Get("Sec-Fetch-Site"); !isLoopback(strings.Trim(host, "[]")) || site == "cross-site" && q.Header.Get("Sec-Fetch-Mode") != "navigate" {
			http.Error(w, "without tokens this page is for this machine's own browser only: ask for it as 127.0.0.1", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, q)
	})
}
