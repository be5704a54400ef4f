// Package chunks answers vehicles that ask for parts of images over MQTT, where HTTP is closed to them (docs/OTA.md, "Delivery"). It
// serves the files that waybill-fleet ota publish wrote, by their SHA-256 and nothing else:
//
//	wb1/{tenant}/{device}/up/request ─▶ range checked, queued for its vehicle ─▶ in turn, as rates and what is in flight allow ─▶ …/down/chunk
//
// Nothing is kept over connections: a vehicle asks again for what did not come. Several processes share the requests by a shared
// subscription, and limits are those of each. Which vehicle asks is said by its topic, so the broker's rules have to hold it to its own.
package chunks
