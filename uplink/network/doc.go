// Package network opens the uplink's connections over the links that a vehicle has: it binds them to the best interface
// that is up, goes through a proxy, hears from the kernel when a link comes and goes, and keeps daily budgets on links
// that cost money.
//
// It knows nothing of MQTT, and must not know how the configuration is written.
package network
