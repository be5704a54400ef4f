package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// servePage answers /metrics and /status on the configured loopback address. The returned function stops it.
func (a *agent) servePage() (stop func(), err error) {
	a.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "waybill_alarms", Help: "Alarms that stand."}, func() float64 { return float64(len(a.alarms.Standing())) }))
	if a.settings.MetricsListen == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", a.settings.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("metrics.listen: %w; choose another port, or leave it out", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("metrics", "error", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			_ = server.Close() // a client that holds its connection open must not hold the agent up
		}
		<-done
	}, nil
}
