package update

import "github.com/waybill-telematics/waybill/firmware/delivery"

// Chunk takes a message that Options.Delivery.Asker asked for, from any goroutine and without blocking. An error says why nothing will come
// of it, and needs no answer.
func (u *Updater) Chunk(payload []byte) error {
	if d := u.fetching.Load(); d != nil {
		return d.Chunk(payload)
	}
	return delivery.ErrNotAsked
}
