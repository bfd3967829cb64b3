package snapshot

// UDPPort is what is added to the number of a port of UDP where a body of configuration numbers ports.
const UDPPort = 1 << 16

// Port is the number of a port as its service has it, and whether it is one of UDP.
func Port(id uint32) (number uint16, udp bool) { return uint16(id), id >= UDPPort }

// PortID is how configuration numbers a port.
func PortID(number uint16, udp bool) uint32 {
	if udp {
		return UDPPort + uint32(number)
	}
	return uint32(number)
}
