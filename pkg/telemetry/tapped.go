package telemetry

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A TapLine is what a tap tells: an exchange, or that some are missing. One that holds neither says that the tap is
// still there.
type TapLine struct {
	Exchange *Tapped  `json:"exchange,omitempty"`
	Node     string   `json:"node,omitempty"`    // of Dropped
	Dropped  uint64   `json:"dropped,omitempty"` // exchanges that were wanted and are not shown, since the line before
	Nodes    []string `json:"nodes,omitzero"`    // that are asked, where that has changed
	Ended    string   `json:"ended,omitempty"`   // why no more will come
}

// Tapped is an exchange as people and programs see it. Nothing of it is a header, a body or a query.
type Tapped struct {
	Time          time.Time `json:"time"` // when it began, by the node's clock
	Node          string    `json:"node"` // of the caller, which saw it
	Caller        string    `json:"caller"`
	Callee        string    `json:"callee"`
	Backend       string    `json:"backend,omitempty"` // that routing chose
	Version       string    `json:"version,omitempty"`
	Instance      string    `json:"instance,omitempty"`
	ServedBy      string    `json:"servedBy,omitempty"` // the node where it runs
	Protocol      string    `json:"protocol"`
	Method        string    `json:"method,omitempty"`
	Host          string    `json:"host,omitempty"`
	Path          string    `json:"path,omitempty"`
	Status        int       `json:"status,omitempty"`
	Reason        string    `json:"reason,omitempty"`
	Duration      float64   `json:"duration"` // seconds
	BytesSent     uint64    `json:"bytesSent"`
	BytesReceived uint64    `json:"bytesReceived"`
	Rule          string    `json:"rule,omitempty"`
	Lane          string    `json:"lane,omitempty"`
	Fault         string    `json:"fault,omitempty"` // what faults of FaultPolicies did to it
	TraceID       string    `json:"traceID,omitempty"`
}

// Shown is an exchange that a node told of. A terminal may show all of it: a node's words are cut, and hold no control
// characters.
func (e *TappedExchange) Shown(node string) *Tapped {
	t := &Tapped{
		Time: time.Unix(0, e.GetStartUnixNs()).UTC(), Node: own(node), Caller: own(e.GetCaller()), Callee: own(e.GetCallee()),
		Backend: own(e.GetBackend()), Version: own(e.GetVersion()), Instance: own(e.GetInstance()), ServedBy: own(e.GetNode()),
		Protocol: own(e.GetProtocol()), Method: own(e.GetMethod()), Host: own(e.GetHost()), Path: own(withoutQuery(e.GetPath())),
		Status: int(min(e.GetStatus(), 999)), Reason: own(e.GetReason()), Duration: time.Duration(e.GetDurationNs()).Seconds(),
		BytesSent: e.GetBytesSent(), BytesReceived: e.GetBytesReceived(), Rule: own(e.GetRule()), Lane: own(e.GetLane()), Fault: own(e.GetFault()),
	}
	if id := e.GetTraceId(); len(id) == 16 {
		t.TraceID = hex.EncodeToString(id)
	}
	return t
}

// Chosen returns what of a batch the filter wants: a node could tell of anything.
func (f *TapFilter) Chosen(batch []*TappedExchange) []*TappedExchange {
	c, err := f.compile()
	if err != nil {
		return nil
	}
	var chosen []*TappedExchange
	for _, e := range batch {
		if c.wantsTold(e) {
			chosen = append(chosen, e)
		}
	}
	return chosen
}

// SealTaps signs who taps a node.
func SealTaps(signer snapshot.Signer, answer *TapAnswer) ([]byte, error) {
	body, err := proto.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("answer who taps: %w", err)
	}
	return proto.Marshal(&TapReply{Answer: body, KeyId: signer.ID, Signature: signer.Sign(snapshot.TapDomain, body)})
}

// OpenTaps verifies who taps this node: by a controller's key, in answer to the request of this nonce.
func OpenTaps(keys snapshot.Keys, cluster, node string, nonce, data []byte) (*TapAnswer, error) {
	var reply TapReply
	if err := proto.Unmarshal(data, &reply); err != nil {
		return nil, fmt.Errorf("open who taps: %w", err)
	}
	answer := new(TapAnswer)
	if err := snapshot.OpenAnswer(keys, snapshot.TapDomain, cluster, node, nonce, &reply, answer); err != nil {
		return nil, fmt.Errorf("open who taps: %w", err)
	}
	return answer, nil
}

// printable is s in memory of its own, cut to most bytes, in UTF-8, and without what would move a terminal's cursor or
// turn its text around.
func printable(s string, most int) string {
	s = strings.ToValidUTF8(s[:min(len(s), most)], "\uFFFD")
	return strings.Clone(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return '\uFFFD'
		}
		return r
	}, s))
}
