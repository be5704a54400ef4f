package main

import (
	"fmt"

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
	o := a.uplinkOptions()
	o.Clocks, o.Status = a.times.Clock, a.status
	o.Catalogue = func(short [16]byte) *telemetrypb.Catalogue {
		if short != a.vehicle.selection.ShortHash() {
			return nil
		}
		return a.vehicle.selection.Catalogue()
	}
	o.OnRejected, o.OnMessage = a.pipe.Ledger().AddLoss, a.heard
	o.Recall, o.OnNotKept = a.queue.Recall, a.pipe.Ledger().AddLoss
	o.OnWantCatalogue = func(short [16]byte) {
		if short == a.vehicle.selection.ShortHash() {
			a.emitCatalogue()
		}
	}
	if !a.replaysRecordings() {
		o.OnConflict = a.conflict
	}
	a.useCredentials(&o)
	if err := a.useLinks(&o); err != nil {
		return err
	}
	a.useChunks(&o)
	if !secure(s.Broker) {
		a.alarms.Raise("uplink.insecure", "INSECURE: the connection to the broker is without encryption, for a bench only: anybody on the way reads and changes what this vehicle sends, its password too. Use mqtts: or wss: and leave insecure: out")
	}
	var err error
	if a.uplink, err = uplink.New(o, a.queue); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	return nil
}

// uplinkOptions are what the configuration alone says of the uplink.
func (a *agent) uplinkOptions() uplink.Options {
	s := &a.settings.Uplink
	o := uplink.Options{
		URL: s.Broker.String(), ClientID: s.ClientID, Tenant: a.settings.Tenant, Device: a.settings.Device, Insecure: s.Insecure,
		Ack: s.Ack,
		Format: func(lane telemetrypb.Lane) uplink.Format {
			if f, ok := s.Format[lane]; ok {
				return f
			}
			return uplink.FormatColumns
		},
		Topics:       []string{telemetrypb.TopicCommand},
		PayloadBytes: s.PayloadBytes, InFlight: s.InFlight, KeepAlive: s.KeepAlive, ReceiptTimeout: s.ReceiptTimeout,
		BackoffBase: s.RetryBase, BackoffCap: s.RetryCap, RefusedRetry: s.RefusedRetry,
		Alarms: a.alarms, Log: a.log, Metrics: a.metrics,
	}
	return o
}

func (a *agent) emitCatalogue() {
	for _, part := range telemetrypb.SplitCatalogue(a.vehicle.selection.Bytes()) {
		a.pipe.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: part}})
	}
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
