package report

import (
	"encoding/json"
	"time"
)

// Paths of the audit and of the history, beside those of controller.go.
const (
	// PathAudit (GET, ?since=TIME&until=TIME&who=NAME&kind=KIND&name=NAME&documents=1&watch=1) answers AuditEvent, a
	// line of JSON for each; with watch it goes on with those that come.
	PathAudit = "/sennit/v1/audit"
	// PathAuditVerify (GET, ?expect=CHECKPOINT, as a Verification names it) answers Verification.
	PathAuditVerify = PathAudit + "/verify"
	// PathRevisions (GET, ?at=TIME) answers the PointInTime of the last change of a document up to a time.
	PathRevisions = "/sennit/v1/revisions"
)

// How an event ended.
const (
	Done    = "done"
	Failed  = "failed"
	Refused = "refused"
	Begun   = "begun" // the controller stopped before it could record how it ended: it was done or not
)

// AuditEvent is something that happened.
type AuditEvent struct {
	Time         time.Time           `json:"time"`
	Controller   string              `json:"controller"` // whose chain it is in
	Number       uint64              `json:"number"`     // in that chain
	Kind         string              `json:"kind"`       // "change", "join", "issuance", "reading", "refusal"
	Who          string              `json:"who"`        // an operator, a node, or system:controller
	From         string              `json:"from,omitempty"`
	Verb         string              `json:"verb"`
	Resource     string              `json:"resource,omitempty"` // "httproutes.gateway.networking.k8s.io"
	Namespace    string              `json:"namespace,omitempty"`
	Name         string              `json:"name,omitempty"`
	Result       string              `json:"result"`
	Detail       string              `json:"detail,omitempty"`
	Revision     uint64              `json:"revision,omitempty"` // of a document, after the change
	Was          uint64              `json:"was,omitempty"`      // before it; 0: there was none
	Before       json.RawMessage     `json:"before,omitempty"`   // the documents, where they were asked for
	After        json.RawMessage     `json:"after,omitempty"`    // left out: deleted
	Certificates []IssuedCertificate `json:"certificates,omitempty"`
	Unrecorded   uint64              `json:"unrecorded,omitempty"` // refusals before this one that were too many to record
}

// IssuedCertificate is a certificate that an event says was issued.
type IssuedCertificate struct {
	Serial   string    `json:"serial"`
	SPIFFEID string    `json:"spiffeID"`
	NotAfter time.Time `json:"notAfter"`
}

// Verification is what verifying the audit has found.
type Verification struct {
	Records     int      `json:"records"`
	Checkpoints int      `json:"checkpoints"`
	Revisions   int      `json:"revisions"`            // of documents, each compared with its record
	Uncovered   int      `json:"uncovered"`            // records behind the newest checkpoint
	Checkpoint  string   `json:"checkpoint,omitempty"` // the newest: controller, number and hash
	Kept        string   `json:"kept,omitempty"`       // the one that the controller keeps a copy of, apart from the streams
	Problems    []string `json:"problems"`
	More        int      `json:"more,omitempty"` // problems that are not in Problems
}

// PointInTime is a revision in the log of documents.
type PointInTime struct {
	Revision uint64    `json:"revision"` // 0: there was none
	Time     time.Time `json:"time,omitzero"`
}
