// Package slots keeps two executables of the agent, a and b, of which one is committed: it is known to work here. A new one
// is installed into the other slot, tried, and then committed or rolled back. Launch is the launcher's part: it decides
// what runs, counts what came of the last start, and rolls back by itself; the other calls are the running agent's.
//
//	DIR/slots/a/waybill-agent         the executable; slots/b likewise
//	DIR/slots/a/waybill-agent.sha256  what it has to be, as sha256sum -c reads it
//	DIR/current -> slots/a            the committed slot, for people, and for when the state is lost
//	DIR/state.1, DIR/state.2          two copies of the state; the newer one that is whole counts
//	DIR/lock                          flock of whoever changes something
//
// What is written is written beside, synced, renamed and its folder synced, one file after the other: nothing relies on
// an order that no fsync made. No clock is read. It knows nothing of signatures or of how an image came here; the caller
// has verified it. docs/OTA.md has the table of states and what each failure meets.
package slots
