// Package sim drives the vehicle's parts and the store through days of a made-up world: its true time, a crystal that
// drifts, clocks that are set, a computer that sleeps and restarts. Everything is told the time; nothing waits for it. The
// pipeline, the queue on disk, the payloads, the ingest and the store are the real ones.
//
// A week (week_test.go) has the uplink as well: under testing/synctest time passes by itself, and the MQTT session runs over
// connections in memory to a broker of our own. It is made of a seed, a thousand of them in a test; the queue and the store
// are in memory in most. What befalls a vehicle is in perils_test.go, what must hold in the end in weekcheck_test.go.
package sim
