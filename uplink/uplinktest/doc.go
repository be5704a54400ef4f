// Package uplinktest holds what an uplink is tried against: a broker that can be killed and made to misbehave, a link
// that can be delayed, frozen and cut, a store that answers with receipts and can lie, and a queue in memory.
//
// It is for tests and simulations only; nothing that a vehicle runs imports it.
package uplinktest
