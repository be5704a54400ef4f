// Package credential holds what a vehicle shows to its broker and what it demands of it: client certificates, tokens,
// passwords, authorities and pins. All of it is read anew at each connection, since it is renewed while the agent runs.
//
// What is wrong is said as *uplink.CredentialError or *uplink.TrustError, in words and without secrets. The package opens
// no connection; it must not know how the configuration is written.
package credential
