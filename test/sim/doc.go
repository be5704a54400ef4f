// Package sim drives the vehicle's parts and the store through days of a made-up world: its true time, a crystal that
// drifts, clocks that are set, a computer that sleeps and restarts. Everything is told the time; nothing waits for it. The
// pipeline, the queue on disk, the payloads, the ingest and the store are the real ones.
package sim
