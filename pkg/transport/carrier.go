package transport

import "fmt"

// A Carrier is what the connections of a lane run over.
type Carrier uint8

const (
	// Auto is QUIC, and TCP where UDP does not get through.
	Auto Carrier = iota
	// QUIC is QUIC alone.
	QUIC
	// TCP is a TLS connection for each stream, and one that belongs to all of them.
	TCP
)

var carrierNames = [...]string{Auto: "auto", QUIC: "quic", TCP: "tcp"}

// String returns "auto", "quic" or "tcp".
func (c Carrier) String() string {
	if int(c) < len(carrierNames) {
		return carrierNames[c]
	}
	return fmt.Sprintf("Carrier(%d)", uint8(c))
}

// MarshalText is String.
func (c Carrier) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what String writes.
func (c *Carrier) UnmarshalText(text []byte) error {
	for i, name := range carrierNames {
		if string(text) == name {
			*c = Carrier(i)
			return nil
		}
	}
	return fmt.Errorf("must be auto, quic or tcp, is %q", text)
}

// carrier is what connections of a lane may run over: what the node is set to goes before what the lane wants,
// because it says what the host's network lets through.
func (t *Transport) carrier(key Key) Carrier {
	if t.only != Auto {
		return t.only
	}
	return key.Carrier
}
