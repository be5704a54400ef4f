// Package api answers what people and their programs ask of a store: HTTP, JSON, below /api/v1, described by openapi.yaml.
//
// It reads through Reader, which a store implements in its own SQL, and never writes, but for the erasure of a device.
// It knows no tables and no MQTT. docs/API.md is for those who call it.
package api
