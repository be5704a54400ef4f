// Package buffer is the durable queue between what is collected and what is sent: batches go in, survive power cuts
// and kills, come out in order, and leave when they are released. It stores bytes and knows no protobuf, no clock, no
// network and no other package of Waybill.
//
//	           Commit                                Next                     Release
//	batches ───────────▶ tail segment ─▶ segments ─────────▶ uplink … receipt ────────▶ segment gone
//	journal ──┘          (bbolt, one     (closed, read                                  when all of it
//	                      per lane)       by pread)                                      is released
//
// A segment is one bbolt file; it is written by one process life only, and bbolt opens only files that this
// process made. Everything is read by internal/boltfile, which neither maps nor locks nor trusts what it reads: so a
// damaged segment is an error and not a panic, one tail per lane is all that is mapped, and a live queue can be looked
// at from outside. FORMAT.md describes every byte.
//
// When there is no room, the least valuable batches go (evict.go); what stands in their place comes from above.
//
// What is promised: what Commit confirmed is there after a power cut; a sequence number never names two batches of an
// epoch; what cannot be read is reported with what is known of it, never silently missing.
package buffer
