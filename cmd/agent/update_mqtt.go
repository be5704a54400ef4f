package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/network"
)

// useChunks has the uplink take parts of images, and remember the way that its connection goes.
func (a *agent) useChunks(o *uplink.Options) {
	if a.settings.Update == nil || !a.settings.Update.MQTT {
		return
	}
	o.OnChunk = func(payload []byte) error {
		if a.updates != nil {
			return a.updates.chunk(payload)
		}
		return delivery.ErrNotAsked
	}
	dial := o.Dial
	o.Dial = func(ctx context.Context, netw, addr string) (net.Conn, error) {
		conn, err := dial(ctx, netw, addr)
		if err == nil {
			local := conn.LocalAddr()
			a.broker.Store(&local)
		}
		return conn, err
	}
}

// chunk gives a part of an image to the unit that asked for it.
func (u *updater) chunk(payload []byte) error {
	for _, unit := range u.units {
		if up := unit.current.Load(); up != nil {
			if err := up.Chunk(payload); !errors.Is(err, delivery.ErrNotAsked) {
				return err
			}
		}
	}
	return delivery.ErrNotAsked
}

// updateAsker asks for parts of a unit's image over the uplink.
type updateAsker struct{ u *updateUnit }

// Ask refuses what an order for Wi-Fi only must not cost: the connection to the broker may go another way than that to the mirrors, which
// the download's gate looks at.
func (a updateAsker) Ask(ctx context.Context, request []byte) error {
	c := a.u.client
	if local := a.u.broker.Load(); c.wifiOnly.Load() && local != nil {
		name, err := network.InterfaceOf(*local)
		if err != nil {
			return fmt.Errorf("%w, and the broker's way is not known: %w", errNoWiFi, err)
		}
		if !slices.Contains(c.wifi, name) {
			return fmt.Errorf("%w, and the connection to the broker leads over %s", errNoWiFi, name)
		}
	}
	return a.u.uplink.Ask(ctx, request)
}
