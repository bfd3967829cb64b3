package http1

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func TestRequestRules(t *testing.T) {
	const host = "Host: orders\r\n"
	for _, tt := range []struct {
		name string
		wire string
		err  error // nil: accepted
	}{
		{"RFC 9112 §2.1 a request", "GET /a?b=c HTTP/1.1\r\nHost: orders\r\n\r\n", nil},
		{"RFC 9112 §2.2 bare LF ends the request line", "GET / HTTP/1.1\nHost: orders\r\n\r\n", ErrMalformed},
		{"RFC 9112 §2.2 bare LF ends a field", "GET / HTTP/1.1\r\nHost: orders\n\r\n", ErrMalformed},
		{"RFC 9112 §2.2 bare LF ends the head", "GET / HTTP/1.1\r\nHost: orders\r\n\n", ErrMalformed},
		{"RFC 9112 §2.2 bare CR in the request line", "GET /\rx HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §2.2 bare CR in a value", "GET / HTTP/1.1\r\n" + host + "A: b\rc\r\n\r\n", ErrMalformed},
		{"RFC 9112 §2.2 bare CR before the end of a line", "GET / HTTP/1.1\r\n" + host + "A: b\r\r\n\r\n", ErrMalformed},
		{"RFC 9112 §2.2 one empty line before", "\r\nGET / HTTP/1.1\r\n" + host + "\r\n", nil},
		{"RFC 9112 §2.2 two empty lines before", "\r\n\r\nGET / HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §2.2 an empty line of bare LF before", "\nGET / HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §2.2 space before", " GET / HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §2.2 space after the request line", "GET / HTTP/1.1\r\n " + host + "\r\n", ErrMalformed},
		{"RFC 9112 §2.3 version 1.0", "GET / HTTP/1.0\r\n\r\n", nil},
		{"RFC 9112 §2.3 version 1.2", "GET / HTTP/1.2\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §2.3 version 2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ErrMalformed},
		{"RFC 9112 §2.3 version 0.9", "GET /\r\n\r\n", ErrMalformed},
		{"RFC 9112 §2.3 lower case", "GET / http/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §2.3 two digits", "GET / HTTP/1.10\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3 two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3 two spaces before the version", "GET /  HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3 a tab", "GET\t/ HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3 space at the end", "GET / HTTP/1.1 \r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3 space in the target", "GET /a b HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.1 a method of one's own", "M-SEARCH / HTTP/1.1\r\n" + host + "\r\n", nil},
		{"RFC 9112 §3.1 a method that is no token", "G(T / HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.1 no method", " / HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2 no Host", "GET / HTTP/1.1\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 two equal Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 two Hosts in 1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", ErrMalformed},
		{"RFC 9110 §4.2.1 empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host with a list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host with a port", "GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n", nil},
		{"RFC 9112 §3.2 Host with an underscore", "GET / HTTP/1.1\r\nHost: shop_db\r\n\r\n", nil},
		{"RFC 9112 §3.2 Host with an empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host with a port too high", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host with two ports", "GET / HTTP/1.1\r\nHost: a:80:81\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host is IPv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", nil},
		{"RFC 9112 §3.2 Host is IPv6 without brackets", "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host is brackets", "GET / HTTP/1.1\r\nHost: []\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2 Host is brackets with more", "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2.1 fragment", "GET /a#b HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.1 fragment in the query", "GET /a?b#c HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.1 backslash", "GET /a\\..\\b HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.1 half an encoded byte", "GET /a%2 HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.1 not an encoded byte", "GET /a%zz HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.1 brackets in the query", "GET /a?b[]={1|2} HTTP/1.1\r\n" + host + "\r\n", nil},
		{"RFC 9112 §3.2.1 bytes above ASCII", "GET /\xc3\xa4 HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.1 NUL", "GET /\x00 HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.1 a path without slash", "GET a HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.2 absolute form", "GET http://orders/a HTTP/1.1\r\n" + host + "\r\n", nil},
		{"RFC 9112 §3.2.2 absolute form in another case", "GET HTTP://ORDERS/a HTTP/1.1\r\n" + host + "\r\n", nil},
		{"RFC 9112 §3.2.2 absolute form with another Host", "GET http://admin/a HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.2 absolute form with a port that Host lacks", "GET http://orders:81/a HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.2 absolute form without Host", "GET http://orders/a HTTP/1.1\r\n\r\n", ErrMalformed},
		{"RFC 9110 §4.2.4 absolute form with a user", "GET http://u@orders/a HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9110 §7.4 absolute form of another scheme", "GET https://orders/a HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.3 CONNECT", "CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\n", nil},
		{"RFC 9112 §3.2.3 CONNECT without port", "CONNECT orders HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.3 CONNECT IPv6 without port", "CONNECT [::1] HTTP/1.1\r\nHost: [::1]\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2.3 CONNECT with a path", "CONNECT / HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §3.2.3 CONNECT with another Host", "CONNECT orders:80 HTTP/1.1\r\nHost: admin:80\r\n\r\n", ErrMalformed},
		{"RFC 9112 §3.2.3 authority form with GET", "GET orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\n", ErrMalformed},
		{"RFC 9110 §9.3.6 CONNECT with a body", "CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §3.2.4 asterisk form", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", nil},
		{"RFC 9112 §3.2.4 asterisk form with GET", "GET * HTTP/1.1\r\n" + host + "\r\n", ErrMalformed},
		{"RFC 9112 §5.1 space before the colon", "GET / HTTP/1.1\r\n" + host + "A : b\r\n\r\n", ErrMalformed},
		{"RFC 9112 §5.1 no colon", "GET / HTTP/1.1\r\n" + host + "A\r\n\r\n", ErrMalformed},
		{"RFC 9112 §5.1 no name", "GET / HTTP/1.1\r\n" + host + ": b\r\n\r\n", ErrMalformed},
		{"RFC 9112 §5.1 a name that is no token", "GET / HTTP/1.1\r\n" + host + "A(b): c\r\n\r\n", ErrMalformed},
		{"RFC 9112 §5.1 a name above ASCII", "GET / HTTP/1.1\r\n" + host + "\xc3\xa4: c\r\n\r\n", ErrMalformed},
		{"RFC 9112 §5.2 folded line", "GET / HTTP/1.1\r\n" + host + "A: b\r\n c\r\n\r\n", ErrMalformed},
		{"RFC 9112 §5.2 line folded with a tab", "GET / HTTP/1.1\r\n" + host + "A: b\r\n\tc\r\n\r\n", ErrMalformed},
		{"RFC 9112 §5.2 folded empty line", "GET / HTTP/1.1\r\n" + host + "A: b\r\n \r\n\r\n", ErrMalformed},
		{"RFC 9110 §5.5 NUL in a value", "GET / HTTP/1.1\r\n" + host + "A: b\x00c\r\n\r\n", ErrMalformed},
		{"RFC 9110 §5.5 DEL in a value", "GET / HTTP/1.1\r\n" + host + "A: b\x7fc\r\n\r\n", ErrMalformed},
		{"RFC 9110 §5.5 vertical tab before a value", "GET / HTTP/1.1\r\n" + host + "Content-Length:\x0b1\r\n\r\nx", ErrMalformed},
		{"RFC 9110 §5.5 bytes above ASCII in a value", "GET / HTTP/1.1\r\n" + host + "A: \xc3\xa4\tb\r\n\r\n", nil},
		{"RFC 9112 §6.1 both framings", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 both framings, the other order", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 chunked", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", nil},
		{"RFC 9112 §6.1 chunked not last", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 chunked behind another", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 chunked twice", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 chunked in two lines", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 identity", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: identity\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 empty", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding:\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 with a parameter", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 quoted", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 vertical tab", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 in 1.0", "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.2 a length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\n\r\nx", nil},
		{"RFC 9112 §6.2 plus", "POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.2 minus", "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.2 hexadecimal", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0x1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.2 octal to some", "POST / HTTP/1.1\r\n" + host + "Content-Length: 010\r\n\r\n0123456789", ErrMalformed},
		{"RFC 9112 §6.2 empty", "POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.2 over 63 bits", "POST / HTTP/1.1\r\n" + host + "Content-Length: 18446744073709551617\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.2 a fraction", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1.0\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.3 two lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy", ErrMalformed},
		{"RFC 9112 §6.3 two equal lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.3 a list of lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1, 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.3 a body that ends early", "POST / HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\nx", io.ErrUnexpectedEOF},
		{"RFC 9112 §8 a head that ends early", "POST / HTTP/1.1\r\n" + host, io.ErrUnexpectedEOF},
		{"RFC 9112 §7.1 chunks", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n00A\r\n0123456789\r\n000\r\n\r\n", nil},
		{"RFC 9112 §7.1 size with a sign", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 size with 0x", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 size with an underscore", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1_0\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 no size", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 size that overflows", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 size before space", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 size after space", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n 1\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 size before bare LF", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 data before bare LF", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 data longer than the size", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 data without a line end", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nx0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1 no last chunk", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", io.ErrUnexpectedEOF},
		{"RFC 9112 §7.1 no end of the trailers", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n", io.ErrUnexpectedEOF},
		{"RFC 9112 §7.1.1 extensions", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;a;b=c;d=\"e;\\\" f\"\r\nx\r\n0;a\r\n\r\n", nil},
		{"RFC 9112 §7.1.1 extension without name", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1.1 extension without value", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;a=\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1.1 extension after space", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1 ;a\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1.1 bare LF in an extension", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;a\nx\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1.1 bare CR in an extension", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;a\rx\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1.1 open quote", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;a=\"b\r\nx\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1.2 trailers", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nSum: 1\r\n\r\n", nil},
		{"RFC 9112 §7.1.2 bare LF in the trailers", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nSum: 1\n\r\n", ErrMalformed},
		{"RFC 9112 §7.1.2 folded trailer", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nSum: 1\r\n 2\r\n\r\n", ErrMalformed},
		{"RFC 9110 §6.5.1 Content-Length as trailer", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 1\r\n\r\n", ErrMalformed},
		{"RFC 9110 §6.5.1 Host as trailer", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nHost: a\r\n\r\n", ErrMalformed},
		{"RFC 9110 §6.5.1 Connection as trailer", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nConnection: close\r\n\r\n", ErrMalformed},
		{"RFC 9110 §6.5.1 Keep-Alive as trailer", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nKeep-Alive: 1\r\n\r\n", ErrMalformed},
		{"RFC 9110 §7.6.1 an option that is no token", "GET / HTTP/1.1\r\n" + host + "Connection: a b\r\n\r\n", ErrMalformed},
		{"RFC 9110 §7.8 an upgrade to no protocol", "GET / HTTP/1.1\r\n" + host + "Connection: upgrade\r\nUpgrade: a b\r\n\r\n", ErrMalformed},
		{"RFC 9110 §10.1.1 expectation", "POST / HTTP/1.1\r\n" + host + "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", nil},
		{"RFC 9110 §10.1.1 another expectation", "POST / HTTP/1.1\r\n" + host + "Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9110 §10.1.1 two expectations", "POST / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{0, 1, 7} {
				if _, _, _, err := readRequest(tt.wire, step); !errors.Is(err, tt.err) {
					t.Errorf("reads of %d bytes: got %v, want %v", step, err, tt.err)
				}
			}
		})
	}
}

func TestRequestIsReadAs(t *testing.T) {
	for _, tt := range []struct {
		name string
		wire string
		want exchange.Request
		body string
	}{
		{
			name: "fields keep order, case and bytes",
			wire: "GET /a?b=c HTTP/1.1\r\nHost: orders:80\r\nb: 1\r\nA:  x y\t\r\nB:\r\n\r\n",
			want: exchange.Request{Method: "GET", Authority: "orders:80", Path: "/a?b=c", Fields: exchange.Fields{{Name: "b", Value: "1"}, {Name: "A", Value: "x y"}, {Name: "B", Value: ""}}},
		},
		{
			name: "RFC 9110 §7.6.1 hop-by-hop fields and those that Connection names are gone",
			wire: "GET / HTTP/1.1\r\nHost: a\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nConnection: keep-alive, x-hop\r\nConnection: ,X-Other ,\r\nX-Other: 2\r\nStay: 3\r\nUpgrade: websocket\r\n\r\n",
			want: exchange.Request{Method: "GET", Authority: "a", Path: "/", Fields: exchange.Fields{{Name: "Stay", Value: "3"}}},
		},
		{
			name: "Connection cannot name the framing away",
			wire: "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length, host\r\nContent-Length: 2\r\n\r\nhi",
			want: exchange.Request{Method: "POST", Authority: "a", Path: "/", BodyLength: 2},
			body: "hi",
		},
		{
			name: "RFC 9110 §7.8 upgrade",
			wire: "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, foo/2\r\n\r\n",
			want: exchange.Request{Method: "GET", Authority: "a", Path: "/", Upgrade: "websocket"},
		},
		{
			name: "RFC 9113 §3.1 upgrade to HTTP/2 is ignored",
			wire: "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
			want: exchange.Request{Method: "GET", Authority: "a", Path: "/"},
		},
		{
			name: "RFC 9110 §7.8 upgrade in 1.0 is ignored",
			wire: "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			want: exchange.Request{Method: "GET", Authority: "a", Path: "/"},
		},
		{
			name: "RFC 9110 §10.1.1 expectation",
			wire: "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
			want: exchange.Request{Method: "PUT", Authority: "a", Path: "/", BodyLength: 2, ExpectContinue: true},
			body: "hi",
		},
		{
			name: "RFC 9110 §10.1.1 expectation without a body is ignored",
			wire: "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
			want: exchange.Request{Method: "PUT", Authority: "a", Path: "/"},
		},
		{
			name: "RFC 9110 §10.1.1 expectation in 1.0 is ignored",
			wire: "PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
			want: exchange.Request{Method: "PUT", Path: "/", BodyLength: 2},
			body: "hi",
		},
		{
			name: "RFC 9112 §3.2.2 absolute form",
			wire: "GET http://a:80?x HTTP/1.1\r\nHost: a:80\r\n\r\n",
			want: exchange.Request{Method: "GET", Authority: "a:80", Path: "/?x"},
		},
		{
			name: "RFC 9112 §3.2.2 absolute form in 1.0, without Host",
			wire: "GET http://a/b HTTP/1.0\r\n\r\n",
			want: exchange.Request{Method: "GET", Authority: "a", Path: "/b"},
		},
		{
			name: "RFC 9112 §3.2.4 absolute form of OPTIONS without a path",
			wire: "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n",
			want: exchange.Request{Method: "OPTIONS", Authority: "a", Path: "*"},
		},
		{
			name: "RFC 9112 §3.2.3 CONNECT",
			wire: "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
			want: exchange.Request{Method: "CONNECT", Authority: "a:443"},
		},
		{
			name: "RFC 9112 §7.1 chunks with trailers",
			wire: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5\r\nhello\r\n1;x=y\r\n,\r\n0\r\nSum: 6\r\n\r\n",
			want: exchange.Request{Method: "POST", Authority: "a", Path: "/", BodyLength: exchange.LengthUnknown, Fields: exchange.Fields{{Name: "Trailer", Value: "Sum"}}},
			body: "hello,",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Scheme = "http"
			for _, step := range []int{0, 1, 5} {
				r, body, trailers, err := readRequest(tt.wire, step)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, r, cmpopts.EquateEmpty()); diff != "" || body != tt.body {
					t.Errorf("reads of %d bytes: body %q, head (-want +got):\n%s", step, body, diff)
				}
				if _, announced := r.Fields.Get("Trailer"); announced != (len(trailers) > 0) {
					t.Errorf("trailers %v", trailers)
				}
			}
		})
	}
}

func TestRequestLimits(t *testing.T) {
	limits := Limits{Head: 20 << 10, Fields: 10, Trailers: 1 << 10}
	head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
	for _, tt := range []struct {
		name   string
		wire   string
		err    error
		status int
	}{
		{"a head that fits", head + "A: " + strings.Repeat("x", 19<<10) + "\r\n\r\n0\r\n\r\n", nil, 0},
		{"a head that does not", head + "A: " + strings.Repeat("x", 21<<10) + "\r\n\r\n0\r\n\r\n", ErrTooLarge, 431},
		{"a head without end", head + "A: " + strings.Repeat("x", 1<<20), ErrTooLarge, 431},
		{"a request line without end", "GET /" + strings.Repeat("x", 1<<20), ErrTooLarge, 431},
		{"as many fields as allowed", head + strings.Repeat("A: b\r\n", 8) + "\r\n0\r\n\r\n", nil, 0},
		{"a field too many", head + strings.Repeat("A: b\r\n", 9) + "\r\n0\r\n\r\n", ErrTooLarge, 431},
		{"many Connection fields", head + strings.Repeat("Connection: b\r\n", 8) + "Connection: c\r\n\r\n0\r\n\r\n", ErrTooLarge, 431},
		{"trailers that fit", head + "\r\n0\r\nA: " + strings.Repeat("x", 1000) + "\r\n\r\n", nil, 0},
		{"trailers that do not", head + "\r\n0\r\nA: " + strings.Repeat("x", 1<<10) + "\r\n\r\n", ErrTooLarge, 413},
		{"a trailer too many", head + "\r\n0\r\n" + strings.Repeat("A: b\r\n", 11) + "\r\n", ErrTooLarge, 413},
		{"a long extension", head + "\r\n0;" + strings.Repeat("x", 300) + "\r\n\r\n", ErrTooLarge, 413},
		{"an extension without end", head + "\r\n0;" + strings.Repeat("x", 1<<20), ErrTooLarge, 413},
		{"not HTTP", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", ErrMalformed, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			peer := &script{in: tt.wire, step: 1000}
			c := NewServerConn(peer, limits)
			var r exchange.Request
			err := c.ReadRequest(&r)
			if err == nil {
				_, err = io.ReadAll(c.Body())
			}
			if !errors.Is(err, tt.err) || c.ErrorStatus(err) != tt.status {
				t.Errorf("got %v (%d), want %v (%d)", err, c.ErrorStatus(err), tt.err, tt.status)
			}
			if read := len(tt.wire) - len(peer.in); tt.err != nil && read > 24<<10 {
				t.Errorf("read %d bytes before it refused them", read)
			}
			if held := len(c.in.head.b); held > 64<<10 {
				t.Errorf("holds %d bytes", held)
			}
		})
	}
}
