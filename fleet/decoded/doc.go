// Package decoded carries what a store has committed to the decoded Kafka topics: samples, events, positions, losses, each row once. Relay takes
// the notes of a store.Outbox shard by shard, writes what they name in a Kafka transaction together with their numbers, and has the store
// delete them. Format says how rows are written; Registry where their schemas are known.
//
// docs/KAFKA.md tells why nothing is lost or doubled. The package knows no SQL and no MQTT, reads no configuration and prints nothing.
package decoded
