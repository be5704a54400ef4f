// Package uplink takes what the queue holds to the broker and lets go of it when it has arrived.
//
// One MQTT session at a time (paho, protocol 3.1.1) is driven by a loop of our own: a new client for each connection,
// since only a client that never reconnects tells the truth about its tokens. Within a connection a feeder packs and
// publishes, an acker takes the tokens in the order they were made, and the session's own goroutine listens: to the
// loss of the connection, to receipts, to its timers. It never publishes, so that a link which swallows writes cannot
// keep it from noticing.
//
// What is acknowledged, and by whom, is Options.Ack: the store's receipt, or the broker's PUBACK.
//
//	       ┌────────────┐ refused, failed    ┌─────────────┐
//	Run ──▶│ connecting │───────────────────▶│   offline   │
//	       └────────────┘◀───────────────────│  (back-off) │
//	             │ CONNACK, SUBACK    waited └─────────────┘
//	             ▼                                  ▲
//	       ┌────────────┐       connection lost     │
//	       │   online   │───────────────────────────┘
//	       └────────────┘
//	             │ ctx ends: offline status, DISCONNECT
//	             ▼
//	          stopped
//
// A batch goes unsent → in flight (published) → unreceipted (PUBACK) → released (receipt). A lost connection and a
// receipt that stays out both put it back to unsent; only a receipt that matches what is held releases it.
//
// The package knows the queue by the few methods of Queue and batches by their envelope. It must not know what is in
// them, where they come from, or how the configuration is written.
package uplink
