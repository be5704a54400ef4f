package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/waybill-telematics/waybill/internal/local/page"
)

// servePage answers /metrics and the local page where metrics.listen says. The returned function stops it.
func (a *agent) servePage() (stop func(), err error) {
	a.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "waybill_alarms", Help: "Alarms that stand."}, func() float64 { return float64(len(a.alarms.Standing())) }))
	s := a.settings
	if s.MetricsListen == "" {
		return func() {}, nil
	}
	listener, err := listenPage(s.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("metrics.listen: %w; choose another one, or leave it out", err)
	}
	guard := page.Guard{Token: s.Page.Token, AnyHost: strings.HasPrefix(s.MetricsListen, "unix:")}
	mux := http.NewServeMux()
	mux.Handle("/metrics", guard.Protect(promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{})))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	if s.Page.On {
		teller := newTeller(a)
		local := page.New(page.Options{State: teller.state, Boot: a.clock.Boot, Table: a.table, OnLook: a.onLook, Log: a.log})
		mux.Handle("/", local.Handler(guard))
		go func() {
			defer close(ended)
			_ = local.Run(ctx) // it ends with ctx only
		}()
		a.log.Info("local page", "listen", s.MetricsListen, "token", s.Page.Token != "")
	} else {
		close(ended)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("metrics", "error", err)
		}
	}()
	return func() {
		cancel() // which ends the streams
		<-ended
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			_ = server.Close() // a client that holds its connection open must not hold the agent up
		}
		<-done
	}, nil
}

// listenPage opens an address, or unix:PATH, which the owner's group may use as well. A socket that an agent left behind
// which did not stop by itself is replaced.
func listenPage(address string) (net.Listener, error) {
	path, isSocket := strings.CutPrefix(address, "unix:")
	if !isSocket {
		return net.Listen("tcp", address)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return nil, errors.Join(fmt.Errorf("%s: another agent answers there", path), conn.Close())
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// onLook has what does not change told once more each second while somebody looks, and forgets the tracks when nobody does.
func (a *agent) onLook(l page.Look) {
	for _, g := range a.located {
		g.view.look(l != page.LookEnds)
	}
	if l == page.LookEnds {
		return
	}
	for _, bus := range a.buses {
		bus.retell.Store(true)
	}
}

// table is what the local page shows of the selection: all but recorded frames.
func (v *vehicle) table() *page.Table {
	var shown []page.Shown
	for _, s := range v.selection.Catalogue().GetSignals() {
		lane, ok := laneWord(v.selection.Lane(s.GetId()))
		if ok {
			shown = append(shown, page.Shown{Signal: s, Lane: lane})
		}
	}
	return page.NewTable(shown)
}
