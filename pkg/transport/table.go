package transport

import (
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// The static table. A field's first integer is
//
//	0          a literal name follows, then a value
//	1 … 63     staticNames[i-1] as it is spelled here; a value follows
//	64 … 126   staticNames[i-64] in lower case; a value follows
//	128 …      staticPairs[i-128]; nothing follows
//
// Entries are only ever added at the end (63 names are the most); a reader refuses what it does not have.
var staticNames = [...]string{
	"Accept", "Accept-Encoding", "Accept-Language", "Accept-Ranges", "Age", "Allow", "Authorization",
	"Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Location",
	"Content-Range", "Content-Type", "Cookie", "Date", "ETag", "Expires", "Forwarded", "From", "If-Match",
	"If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Last-Modified", "Link",
	"Location", "Origin", "Pragma", "Range", "Referer", "Retry-After", "Server", "Set-Cookie",
	"Strict-Transport-Security", "User-Agent", "Vary", "Via", "WWW-Authenticate",
	"X-Content-Type-Options", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Request-Id",
	"Traceparent", "Tracestate", "Baggage", "Grpc-Status", "Grpc-Message", "Grpc-Timeout", "Grpc-Encoding",
	"Grpc-Accept-Encoding", "TE", "Access-Control-Allow-Origin", "Sec-WebSocket-Key",
	"Sec-WebSocket-Version", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions",
	"Idempotency-Key", "Sennit-Reason",
}

var staticPairs = [...]exchange.Field{
	{Name: "Accept", Value: "*/*"},
	{Name: "accept", Value: "*/*"},
	{Name: "Accept", Value: "application/json"},
	{Name: "accept", Value: "application/json"},
	{Name: "Accept-Encoding", Value: "gzip"},
	{Name: "accept-encoding", Value: "gzip"},
	{Name: "Accept-Encoding", Value: "gzip, deflate"},
	{Name: "accept-encoding", Value: "gzip, deflate"},
	{Name: "Accept-Encoding", Value: "gzip, deflate, br"},
	{Name: "accept-encoding", Value: "gzip, deflate, br"},
	{Name: "Accept-Ranges", Value: "bytes"},
	{Name: "Cache-Control", Value: "no-cache"},
	{Name: "cache-control", Value: "no-cache"},
	{Name: "Content-Encoding", Value: "gzip"},
	{Name: "content-encoding", Value: "gzip"},
	{Name: "Content-Type", Value: "application/json"},
	{Name: "content-type", Value: "application/json"},
	{Name: "Content-Type", Value: "application/json; charset=utf-8"},
	{Name: "content-type", Value: "application/json; charset=utf-8"},
	{Name: "Content-Type", Value: "application/octet-stream"},
	{Name: "Content-Type", Value: "application/x-www-form-urlencoded"},
	{Name: "Content-Type", Value: "text/html; charset=utf-8"},
	{Name: "content-type", Value: "text/html; charset=utf-8"},
	{Name: "Content-Type", Value: "text/plain"},
	{Name: "Content-Type", Value: "text/plain; charset=utf-8"},
	{Name: "content-type", Value: "text/plain; charset=utf-8"},
	{Name: "content-type", Value: "application/grpc"},
	{Name: "te", Value: "trailers"},
	{Name: "grpc-status", Value: "0"},
	{Name: "Vary", Value: "Accept-Encoding"},
	{Name: "vary", Value: "Accept-Encoding"},
	{Name: "X-Content-Type-Options", Value: "nosniff"},
	{Name: "X-Forwarded-Proto", Value: "http"},
	{Name: "X-Forwarded-Proto", Value: "https"},
}

// staticMethods have the number of their index; methodLiteral says that the method is written out.
var staticMethods = [...]string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

const (
	methodLiteral = 0xff
	lowerBase     = 64
	pairBase      = 128
)

// A nameEntry is what the encoder knows of a name in one spelling.
type nameEntry struct {
	index uint64   // of the name
	pairs []uint64 // of the pairs with this name
}

var (
	lowerNames [len(staticNames)]string
	nameIndex  = make(map[string]nameEntry, 2*len(staticNames))
)

func init() {
	for i, name := range staticNames {
		lowerNames[i] = strings.ToLower(name)
		nameIndex[name] = nameEntry{index: uint64(1 + i)}
		nameIndex[lowerNames[i]] = nameEntry{index: uint64(lowerBase + i)}
	}
	for j, pair := range staticPairs {
		entry := nameIndex[pair.Name]
		entry.pairs = append(entry.pairs, uint64(pairBase+j))
		nameIndex[pair.Name] = entry
	}
}
