// Package conditions decides whether a vehicle may install now. A Set is what the campaign asks, parsed from the director's
// signed custom object; a Checker holds it against Readings and answers with what is Unmet, in words. Whatever is missing,
// stale, impossible or not understood counts as unmet: it fails closed. Consents asks the person in the vehicle.
//
// It reads no bus and no clock, and starts nothing: whoever installs brings the readings, asks for each, and asks once more
// directly before the first byte is written. docs/OTA.md, section "Conditions", is its page.
package conditions
