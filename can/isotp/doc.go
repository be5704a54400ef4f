// Package isotp is ISO 15765-2, the transport protocol that carries diagnostic messages over CAN, in user space: kernels
// before Linux 5.10 have none. Clauses cited are those of ISO 15765-2:2016.
//
// A Reassembler listens to the conversations of others and puts their messages together; it sends nothing. A Conn takes
// part in a conversation of its own, over a Link.
//
// The package knows frames. It does not know what a message says (packages obd and uds do), who may send when (package
// poll does), or where a frame comes from.
package isotp
