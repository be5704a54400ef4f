package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/firmware"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
)

func (a *agent) openUplink() error {
	s := &a.settings.Uplink
	if s.Broker == nil {
		a.log.Warn("no broker is configured: samples are recorded and stay on this device")
		return nil
	}
	o := uplink.Options{
		URL: s.Broker.String(), ClientID: s.ClientID, Tenant: a.settings.Tenant, Device: a.settings.Device, Insecure: s.Insecure,
		TLS: func() (*tls.Config, error) { return s.tlsConfig(a.now) },
		Ack: s.Ack,
		Format: func(lane telemetrypb.Lane) uplink.Format {
			if f, ok := s.Format[lane]; ok {
				return f
			}
			return uplink.FormatColumns
		},
		Clocks: a.times.Clock,
		Catalogue: func(short [16]byte) *telemetrypb.Catalogue {
			if short != a.vehicle.selection.ShortHash() {
				return nil
			}
			return a.vehicle.selection.Catalogue()
		},
		Status:     a.status,
		OnRejected: a.pipe.Ledger().AddLoss,
		OnWantCatalogue: func(short [16]byte) {
			if short == a.vehicle.selection.ShortHash() {
				a.emitCatalogue()
			}
		},
		Topics: []string{telemetrypb.TopicCommand}, OnMessage: a.heard,
		PayloadBytes: s.PayloadBytes, KeepAlive: s.KeepAlive, ReceiptTimeout: s.ReceiptTimeout,
		BackoffBase: s.RetryBase, BackoffCap: s.RetryCap,
		Alarms: a.alarms, Log: a.log, Metrics: a.metrics,
	}
	if !a.replaysRecordings() {
		o.OnConflict = a.conflict
	}
	if s.User != "" {
		o.User = func() (string, error) { return s.User, nil }
	}
	if s.PasswordFile != "" {
		o.Password = func() (string, error) { return firstLine(s.PasswordFile) }
	}
	if s.Insecure {
		a.log.Warn("INSECURE: the connection to the broker may be without encryption; for a bench only", "broker", s.Broker.Host)
	}
	var err error
	if a.uplink, err = uplink.New(o, a.queue); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	return nil
}

func (a *agent) emitCatalogue() {
	for _, part := range telemetrypb.SplitCatalogue(a.vehicle.selection.Bytes()) {
		a.pipe.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: part}})
	}
}

// tlsConfig reads the certificates anew: they may have been renewed since the last connection.
// A clock that was never set must not make every one "not yet valid", nor one that is wrong "expired".
func (s *uplinkSettings) tlsConfig(now func() time.Time) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.Broker.Hostname(), Time: now}
	if s.CA != "" {
		text, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca: %s holds no PEM certificate", s.CA)
		}
	}
	if s.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, fmt.Errorf("cert and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// firstLine reads a secret; the error never shows it.
func firstLine(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimRight(line, "\r"); line == "" {
		return "", errors.New(file + " is empty")
	}
	return line, nil
}

// status is what the vehicle says of itself in its retained message.
func (a *agent) status() *telemetrypb.Status {
	id := firmware.Current()
	hash := a.vehicle.selection.Hash()
	st := &telemetrypb.Status{
		Online: true, Device: a.settings.Device, Tenant: a.settings.Tenant,
		Version: id.Version, Hardware: id.Hardware,
		Catalogue: hash[:], Epoch: a.queue.Epoch(),
		BootId: a.boot.ID[:], BootCount: a.boot.Count,
	}
	st.Power = a.powerState()
	st.TimeUnixNs, _, st.TimeSource = a.times.Now(a.clock.Boot())
	for lane, depth := range a.queue.Stats().Lanes {
		st.Queue = append(st.Queue, &telemetrypb.LaneDepth{
			Lane: telemetrypb.Lane(lane), Batches: depth.Batches, Bytes: depth.Bytes, NextSeq: depth.Next,
		})
	}
	for _, al := range a.alarms.Standing() {
		st.Alarms = append(st.Alarms, &telemetrypb.Alarm{Name: al.Name, Text: al.Text, SinceBootNs: al.Since, Times: al.Times})
	}
	return st
}
