// Package obd is the diagnostics that every car owes the public: SAE J1979 (ISO 15031-5) on CAN, modes 01 (current
// data), 02 (freeze frame), 03, 07 and 0A (trouble codes) and 09 (vehicle information).
//
// Requests, answers and the table of PIDs are pure functions and data; a Client asks over isotp.Conn. It reads only: no
// mode that clears or moves anything is here. Whether it may ask at all, and how often, is decided in package poll.
package obd
