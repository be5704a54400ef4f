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
	word := updateRefused // openUpdate made no updater
	if t.updates != nil {
		word, _ = t.updates.shown.Load().(string)
	}
	return &local.Update{Phase: word, Text: updateWords[word], Running: t.fixed.Agent.Slot}
}
