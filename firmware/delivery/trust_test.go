package delivery_test

import (
	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/firmware/trust"
)

// What metadata vouches for is what a delivery fetches.
var _ delivery.Image = (*trust.Target)(nil)
