package main

import (
	"context"
	"errors"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

// noBroker is the source of a serve to which everything comes by HTTP. It has nothing to be connected to.
type noBroker struct{}

func (noBroker) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (noBroker) Connected() bool { return true }

func (noBroker) Counts() ingest.Counts { return ingest.Counts{} }

func (noBroker) Send(context.Context, []ingest.Reply) error {
	return errors.New("there is no broker to send receipts over; give --broker")
}
