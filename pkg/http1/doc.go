// Package http1 reads and writes exchanges on HTTP/1.1 connections (RFC 9112): a ServerConn faces an
// application that sends requests, a ClientConn faces a service that answers them.
//
// What passes through is one exchange after the other: a head (exchange.Request, exchange.Response), a body
// of any size at constant memory, trailers. Framing belongs to the connection: fields of RFC 9110 §7.6.1 and
// those that Connection names are gone after reading, and what the next connection needs is written anew.
//
// It guarantees that nothing is accepted which two readers could read in two ways (ErrMalformed), that
// nothing a peer sends makes memory grow past the Limits (ErrTooLarge), and that nothing is written which a
// head or field of doubtful origin could use to end a line early.
//
// It does not route, dial, retry, time anything but a slow head, or answer by itself: the 100 that an
// application waits for is sent when the user says so.
//
// One goroutine may read from a connection while another writes to it; neither side is safe for more.
// Start reading at ServerConn, then input (reading), head.go (what is refused) and output (writing).
package http1
