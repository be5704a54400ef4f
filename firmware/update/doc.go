// Package update brings to this vehicle what the director wants of it: verified (firmware/trust), fetched
// (firmware/delivery), held until its conditions are met (firmware/conditions), installed and started on trial
// (firmware/slots for the agent, firmware/install for a whole system), judged by what worked before
// (firmware/probation), committed or rolled back, and reported.
//
//	     ┌──────────────── poll ────────────────┐
//	     ▼                                      │
//	 resolve ─ nothing new, refused ────────────┤
//	     │ wanted                               │
//	  deliver ─ conditions ─ install ─ try ─▶ restart into the trial
//	                                            ▼
//	committed ◀─ pass ─ probation ─ fail ─▶ restart into what was there
//
// Every step can be cut off and begun again: what is durable is the download, the slots' state and the baseline, and
// each is that of its package. What became of it is told until somebody has it on disk, and has the same name each
// time.
package update
