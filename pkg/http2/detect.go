package http2

// Preface is what a client of HTTP/2 sends first (RFC 9113 §3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Decisive is how many bytes of the preface tell it from HTTP/1.1: the method PRI is reserved for it (RFC 9113 §11.7),
// while PROPFIND and POST begin like it.
const Decisive = 3

// A Guess is what the first bytes of a connection say.
type Guess uint8

// The guesses.
const (
	Unsure Guess = iota // as many bytes more are needed as are missing to Decisive
	IsHTTP2
	NotHTTP2
)

// Detect tells from the first bytes of a connection whether its client speaks HTTP/2 with prior knowledge. Only bytes
// that could begin the preface leave it Unsure: it never makes anybody wait who speaks another protocol.
func Detect(first []byte) Guess {
	for i := range min(len(first), Decisive) {
		if first[i] != Preface[i] {
			return NotHTTP2
		}
	}
	if len(first) < Decisive {
		return Unsure
	}
	return IsHTTP2
}
