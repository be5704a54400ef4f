package update

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
)

// Order is what is to be installed, and how.
type Order struct {
	Image      *trust.Target
	Meta       slots.Meta
	Conditions conditions.Set
	Patch      *delivery.Patch
	Budget     int64 // bytes; 0: no limit
	WiFiOnly   bool
}

// same says whether two orders ask for the same image by the same campaign.
func (o *Order) same(p *Order) bool {
	return o != nil && p != nil && o.Meta.SHA256 == p.Meta.SHA256 && o.Meta.Campaign == p.Meta.Campaign
}

// ErrOrder: what the director signed is not an order that can be followed.
var ErrOrder = errors.New("an order that cannot be followed")

// orderOf reads what the repositories signed beside the image (docs/OTA.md).
func orderOf(t *trust.Target) (*Order, error) {
	var said struct {
		Campaign string          `json:"campaign"`
		Patch    *delivery.Patch `json:"patch"`
		Budget   int64           `json:"budget_bytes"`
		WiFiOnly bool            `json:"wifi_only"`
		RetryOf  string          `json:"retry_of"`
	}
	var image struct {
		Version string `json:"version"`
		Release int64  `json:"release_counter"`
	}
	set, err := conditions.FromCustom(t.Order())
	if err == nil && t.Order() != nil {
		err = json.Unmarshal(t.Order(), &said)
	}
	if err == nil && t.Custom() != nil {
		err = json.Unmarshal(t.Custom(), &image)
	}
	sum := t.Hash("sha256")
	switch {
	case err != nil:
	case len(sum) != 32:
		err = errors.New("the repositories give no sha256 of it")
	case said.Campaign == "":
		err = errors.New("it names no campaign, so nobody could be told what became of it")
	case said.Budget < 0:
		err = errors.New("budget_bytes is negative")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrOrder, t.Name(), err)
	}
	return &Order{
		Image: t, Conditions: set, Patch: said.Patch, Budget: said.Budget, WiFiOnly: said.WiFiOnly,
		Meta: slots.Meta{Name: t.Name(), SHA256: hex.EncodeToString(sum), Length: t.Length(), Version: image.Version, ReleaseCounter: image.Release,
			Campaign: said.Campaign, RetryOf: said.RetryOf},
	}, nil
}
