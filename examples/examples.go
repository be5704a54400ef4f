// Package examples holds the configuration that shows every key, so that the agent can print it, and say of each key what
// stands beside it there.
package examples

import _ "embed" // for Agent

// Agent is agent.yaml. Its comments describe the keys of the agent's schema and reference.
//
//go:embed agent.yaml
var Agent string
