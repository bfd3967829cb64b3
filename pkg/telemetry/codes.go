package telemetry

import "strconv"

// registered are the status codes of IANA's registry, which have a counter of their own. What else a service invents
// counts as its class, so that nobody can make a node hold more.
var registered = []int{
	100, 101, 102, 103, 104, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308,
	400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 424, 425,
	426, 428, 429, 431, 451, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
}

// numCodes are the classes, of which the first is that of no status at all, and the registered codes behind them.
const numCodes = 6 + 62

// codeIndex finds the counter of a status, and codeNames what the counter is called in metrics.
var codeIndex, codeNames = func() (index [600]uint8, names [numCodes]string) {
	for class := range 6 {
		names[class] = strconv.Itoa(class) + "xx"
	}
	names[0] = "none"
	for status := 100; status < len(index); status++ {
		index[status] = uint8(status / 100)
	}
	for i, status := range registered {
		index[status] = uint8(6 + i)
		names[6+i] = strconv.Itoa(status)
	}
	return index, names
}()

// codeOf returns the index of a status's counter.
func codeOf(status int) uint8 {
	if status < 0 {
		return 0
	}
	return codeIndex[min(status, len(codeIndex)-1)] // 599 is not registered: the class of what is above it, too
}

// classOf returns the class, from 0 to 5, that a counter is of.
func classOf(code int) int {
	if code < 6 {
		return code
	}
	return registered[code-6] / 100
}
