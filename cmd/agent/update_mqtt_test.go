package main

import (
	"errors"
	"log/slog"
	"net"
	"testing"

	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// TestAskByWiFi: an order for Wi-Fi only asks nothing of a broker to which another way leads.
func TestAskByWiFi(t *testing.T) {
	queue, err := uplinktest.NewQueue("acme", "car-1", 1)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	a := &agent{}
	if a.uplink, err = uplink.New(uplink.Options{URL: "mqtt://127.0.0.1:1", Insecure: true, Tenant: "acme", Device: "car-1",
		OnChunk: func([]byte) error { return nil }, Alarms: alarm.NewBoard(func() int64 { return 1 }, log), Log: log}, queue); err != nil {
		t.Fatal(err)
	}
	var local net.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000}
	a.broker.Store(&local)
	for _, c := range []struct {
		wifi     []string
		wifiOnly bool
		want     error
	}{
		{nil, false, uplink.ErrOffline}, // asked, and nobody is connected
		{[]string{"wlan9"}, false, uplink.ErrOffline},
		{[]string{"lo"}, true, uplink.ErrOffline},
		{[]string{"wlan9"}, true, errNoWiFi},
		{nil, true, errNoWiFi},
	} {
		u := &updateUnit{updater: &updater{agent: a}, client: &updateClient{wifi: c.wifi}}
		u.client.wifiOnly.Store(c.wifiOnly)
		if err := (updateAsker{u}).Ask(t.Context(), []byte("a request")); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
