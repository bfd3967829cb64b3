package telemetry

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// ErrFilter is returned for a filter of which nobody could say what it wants.
var ErrFilter = errors.New("not a filter of exchanges")

// Bounds of a filter's texts, in bytes.
const (
	maxFilterMethod = 64
	maxFilterPath   = 1024
)

// Names of a filter's parts in the query of a URL.
const (
	filterFrom, filterTo, filterMethod, filterPath, filterCode = "from", "to", "method", "path", "code"
)

// ParseFilter reads a filter from the query of a URL: from, to, method, path and code, which is a status or a class of
// them, as "5xx". Other parts are not looked at.
func ParseFilter(q url.Values) (*TapFilter, error) {
	f := &TapFilter{From: q.Get(filterFrom), To: q.Get(filterTo), Method: q.Get(filterMethod), Path: q.Get(filterPath)}
	if text := q.Get(filterCode); text != "" {
		class, whole := strings.CutSuffix(strings.ToLower(text), "xx")
		code, err := strconv.ParseUint(class, 10, 16)
		if err != nil || whole && (code < 1 || code > 5) || !whole && (code < 100 || code > 599) {
			return nil, fmt.Errorf("%w: code %q (want a status, as 404, or a class of them, as 5xx)", ErrFilter, text)
		}
		f.Code = uint32(code)
	}
	c, err := f.compile()
	f.From, f.To = text(c.from), text(c.to)
	return f, err
}

// Values is the filter as ParseFilter reads it.
func (f *TapFilter) Values() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{filterFrom: f.GetFrom(), filterTo: f.GetTo(), filterMethod: f.GetMethod(), filterPath: f.GetPath()} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if code := f.GetCode(); code >= 100 {
		q.Set(filterCode, strconv.Itoa(int(code)))
	} else if code > 0 {
		q.Set(filterCode, strconv.Itoa(int(code))+"xx")
	}
	return q
}

// A filter is a TapFilter as it is compared with exchanges.
type filter struct {
	from, to     exchange.ServiceName // zero: any
	method, path string
	code         int
}

func (f *TapFilter) compile() (filter, error) {
	c := filter{method: f.GetMethod(), path: f.GetPath(), code: int(f.GetCode())}
	var err error
	if f.GetFrom() != "" {
		c.from, err = exchange.ParseServiceName(f.GetFrom())
	}
	if f.GetTo() != "" && err == nil {
		c.to, err = exchange.ParseServiceName(f.GetTo())
	}
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrFilter, err)
	}
	switch {
	case len(c.method) > maxFilterMethod || len(c.path) > maxFilterPath:
		return c, fmt.Errorf("%w: the method has at most %d bytes, the path %d", ErrFilter, maxFilterMethod, maxFilterPath)
	case c.path != "" && c.path[0] != '/' && c.path != "*":
		return c, fmt.Errorf("%w: the path %q does not begin with /", ErrFilter, c.path)
	case strings.ContainsRune(c.path, '?'):
		return c, fmt.Errorf("%w: the path %q has a query, which taps do not look at", ErrFilter, c.path)
	case c.code < 0 || c.code > 5 && c.code < 100 || c.code > 599:
		return c, fmt.Errorf("%w: code %d", ErrFilter, c.code)
	}
	return c, nil
}

// wants reports whether an exchange passes. It allocates nothing.
func (f *filter) wants(a *Access) bool {
	return (f.from.IsZero() || f.from == a.Edge.Caller) &&
		(f.to.IsZero() || f.to == a.Edge.Callee || f.to == a.Edge.Backend) &&
		f.wantsHTTP(a.Method, withoutQuery(a.Path), a.Sample.Outcome.Status)
}

func (f *filter) wantsHTTP(method, path string, status int) bool {
	return (f.method == "" || exchange.EqualName(f.method, method)) && strings.HasPrefix(path, f.path) &&
		(f.code == 0 || f.code == status || f.code == status/100)
}

// wantsTold is wants for an exchange that a node tells of.
func (f *filter) wantsTold(e *TappedExchange) bool {
	return (f.from.IsZero() || f.from.String() == e.GetCaller()) &&
		(f.to.IsZero() || f.to.String() == e.GetCallee() || f.to.String() == e.GetBackend()) &&
		f.wantsHTTP(e.GetMethod(), e.GetPath(), int(e.GetStatus()))
}
