// Package pipeline holds what is collected, how it is sampled and sealed, and the account of what was lost.
//
// Readers hand over chunks of samples through Sources. One goroutine, Run, samples them, looks at the rules, gathers
// them into one open batch per lane, and commits: sealed batches as they will be sent, and a journal of what is not
// sealed yet, in one call of Queue.Commit.
//
//	Source ─┐                          ┌─ open batch: event      ─┐ seal
//	Source ─┼─▶ sampling ─▶ rules ─────┼─ open batch: telemetry  ─┼──────▶ uncommitted ─▶ Queue.Commit
//	Raise  ─┘      Ledger, Emit ───────┴─ control records        ─┘ journal        (a goroutine of Run's own)
//
// Every sample that was offered is then in a committed batch, or left out because its Collect says so, or counted in
// the Ledger with its reason.
//
// The package must not know how a queue stores bytes, what a bus or a receiver is, how anything is sent, or where
// its settings were read.
package pipeline
