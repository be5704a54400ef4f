// Package uds is the part of Unified Diagnostic Services (ISO 14229-1) that reads: 0x22 ReadDataByIdentifier, 0x19
// ReadDTCInformation, 0x3E TesterPresent, and the negative responses. Clauses cited are those of ISO 14229-1:2020.
//
// Requests and responses are pure functions; a Client asks over isotp.Conn. Services that change something in a vehicle
// are not here. Whether a Client may ask, and how often, is decided in package poll.
package uds
