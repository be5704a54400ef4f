// Package delivery brings an image onto the vehicle's disk over networks that break, and never brings a byte twice that it
// need not. A Delivery has one download: a data file of the signed length and, beside it, a journal of which blocks are on
// the disk (part.go, journal.go). Two kinds of sources fill the same part: mirrors by HTTPS ranges (http.go), and chunks by
// MQTT that the vehicle asks for (chunks.go). Where the campaign offers a patch from the software that is running, the
// patch is brought in the same way and the image made from it (patch.go).
//
// It knows nothing of slots, metadata and campaigns, and trusts no source and no disk: what it hands out was hashed from the
// disk by the Image, just before. docs/OTA.md, "Delivery", has the formats and the bounds.
package delivery
