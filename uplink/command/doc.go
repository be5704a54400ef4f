// Package command takes signed commands for this vehicle, each at most once, and says what became of them.
//
// A command comes as a Down message: bytes, the id of a key, and an Ed25519 signature over them. It is judged in this
// order, and the first thing that is wrong refuses it:
//
//	size ─▶ parses ─▶ key known ─▶ signature ─▶ this tenant and device ─▶ taken before? answer as then
//	     ─▶ not expired, by a clock that somebody vouches for ─▶ issued after the ledger began
//	     ─▶ counter above the last one of its key ─▶ the ledger says so on disk ─▶ allowed ─▶ runs
//
// The counter is durable before the handler is called. A process that dies in between has taken the command and not
// run it, or run it and not said so; either way it is never run again, and the next start answers `interrupted`.
//
// The package knows neither MQTT nor the configuration, nor what commands do: handlers come from above.
package command
