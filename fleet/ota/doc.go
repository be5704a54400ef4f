// Package ota is the OEM's side of updates: it makes and keeps the two TUF repositories that vehicles verify (Uptane
// Standard 2.1.0 §5.3, image repository and director), as files that any HTTPS store can host, and leads campaigns
// through their stages.
//
// Keys of root and targets sign offline: what is to be signed is staged as a file, carried to those who hold keys, and
// published when enough have signed. The keys of snapshot, timestamp and of the director's targets sign here.
//
// A static host cannot answer each vehicle, so a director is published for each of 100 cohorts of each kind of vehicle.
// docs/OTA.md, "The OEM's side", has the layout and a worked example.
//
// The package knows nothing of the vehicle's side (firmware/) nor of a store: what became of a campaign comes in through Outcomes.
package ota
