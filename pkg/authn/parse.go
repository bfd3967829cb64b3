package authn

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parse reads one JSON value (RFC 8259). A name that is there twice is refused, for readers differ in which of them counts
// (§4), and so is what is no UTF-8. What it takes, encoding/json takes and reads in the same way; that is too slow here, and
// does not tell of a name that is there twice.
func parse(text []byte) (Value, error) { return parseUpTo(text, maxClaimsBytes) }

func parseUpTo(text []byte, most int) (Value, error) {
	if len(text) > most {
		return Value{}, fmt.Errorf("there are %d bytes, and at most %d may be", len(text), most)
	}
	if !utf8.Valid(text) {
		return Value{}, errors.New("they are no UTF-8")
	}
	p := parser{text: string(text), left: maxValues}
	v, err := p.value(maxDepth)
	if err == nil && p.space() != end {
		err = errors.New("something follows after the end of the value")
	}
	if err != nil {
		return Value{}, fmt.Errorf("byte %d: %w", p.at, err)
	}
	return v, nil
}

// A parser reads text from at on.
type parser struct {
	text string
	at   int
	left int // how many values there may be
}

// end is what stands behind the end; as a byte of the text it is refused as any control.
const end = 0

var (
	errJSON = errors.New("this is not JSON")
	errCut  = errors.New("the end is missing")
)

// space skips white space and tells what stands behind it.
func (p *parser) space() byte {
	for ; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; c {
		case ' ', '\t', '\n', '\r':
		case end:
			return 1 // any that is refused
		default:
			return c
		}
	}
	return end
}

func (p *parser) value(depth int) (Value, error) {
	if p.left--; p.left < 0 {
		return Value{}, fmt.Errorf("there are more than %d values", maxValues)
	}
	c := p.space()
	switch {
	case c == end:
		return Value{}, errCut
	case c == '"':
		text, err := p.string()
		return Value{kind: String, text: text}, err
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	case c == '[' || c == '{':
		if depth == 0 {
			return Value{}, fmt.Errorf("there are more than %d values within each other", maxDepth)
		}
		if c == '[' {
			return p.list(depth - 1)
		}
		return p.object(depth - 1)
	}
	for _, word := range []string{"null", "true", "false"} {
		if strings.HasPrefix(p.text[p.at:], word) {
			p.at += len(word)
			if word == "null" {
				return Value{}, nil
			}
			return Value{kind: Bool, text: word}, nil
		}
	}
	return Value{}, errJSON
}

// string reads a string, at whose beginning p is.
func (p *parser) string() (string, error) {
	start, escaped := p.at, false
	for p.at++; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			if !escaped {
				return p.text[start+1 : p.at-1], nil
			}
			var text string
			err := json.Unmarshal([]byte(p.text[start:p.at]), &text)
			return text, err
		case c == '\\':
			escaped = true
			p.at++
		case c < ' ':
			return "", errJSON
		}
	}
	return "", errCut
}

func (p *parser) number() (Value, error) {
	start := p.at
	digits := func() bool {
		first := p.at
		for p.at < len(p.text) && '0' <= p.text[p.at] && p.text[p.at] <= '9' {
			p.at++
		}
		return p.at > first
	}
	is := func(any string) bool {
		if p.at < len(p.text) && strings.IndexByte(any, p.text[p.at]) >= 0 {
			p.at++
			return true
		}
		return false
	}
	is("-")
	if !is("0") && !digits() || is(".") && !digits() {
		return Value{}, errJSON
	}
	if is("eE") {
		if is("+-"); !digits() {
			return Value{}, errJSON
		}
	}
	text := p.text[start:p.at]
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return Value{}, fmt.Errorf("%s is too large a number", text)
	}
	return Value{kind: Number, text: text, number: n}, nil
}

func (p *parser) list(depth int) (Value, error) {
	v := Value{kind: List}
	err := p.each(']', func() error {
		item, err := p.value(depth)
		v.items = append(v.items, item)
		return err
	})
	return v, err
}

func (p *parser) object(depth int) (Value, error) {
	v := Value{kind: Object}
	err := p.each('}', func() error {
		if p.space() != '"' {
			return errJSON
		}
		name, err := p.string()
		if err != nil {
			return err
		}
		if p.space() != ':' {
			return errJSON
		}
		p.at++
		value, err := p.value(depth)
		v.members = append(v.members, member{name, value})
		return err
	})
	if err != nil {
		return Value{}, err
	}
	slices.SortFunc(v.members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(v.members); i++ {
		if v.members[i].name == v.members[i-1].name {
			return Value{}, fmt.Errorf("the name %q is there twice", v.members[i].name)
		}
	}
	return v, nil
}

// each calls one at each item of a list or object, at whose beginning p is, until what closes it.
func (p *parser) each(closes byte, one func() error) error {
	p.at++
	if p.space() == closes {
		p.at++
		return nil
	}
	for {
		if err := one(); err != nil {
			return err
		}
		switch p.space() {
		case closes:
			p.at++
			return nil
		case ',':
			p.at++
		case end:
			return errCut
		default:
			return errJSON
		}
	}
}
