package main

import "github.com/waybill-telematics/waybill/internal/local"

// updateWords say in full what the updater's words mean.
var updateWords = map[string]string{
	updateRefused:    "the launcher did not start this agent, or its slots cannot be used: nothing is installed; see the log",
	updateStarting:   "waits for its sources before it counts as started",
	updateOnTrial:    "this version is on trial: it stays if it works as the one before it",
	updateFollowing:  "follows what the director wants",
	updateFails:      "does not go on: see the alarm",
	updateRestarting: "another version is being started",
}

// updateOf says how updates stand; nil: none are configured.
func (t *teller) updateOf() *local.Update {
	if t.settings.Update == nil {
		return nil
	}
	own, system := updateRefused, "" // where there is no such unit
	if t.updates != nil {
		for _, unit := range t.updates.units {
			if word, _ := unit.shown.Load().(string); unit.system == nil {
				own = word
			} else {
				system = "; the whole system: " + word
			}
		}
	}
	return &local.Update{Phase: own, Text: updateWords[own] + system, Running: t.fixed.Agent.Slot}
}
