package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/routing"
)

// explain answers what this node does with a request now, from the table that requests are routed by.
func (n *Node) explain(w http.ResponseWriter, r *http.Request) {
	var q routing.Question
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, report.MaxQuestion)).Decode(&q); err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, fmt.Errorf("read the question: %w", err))
		return
	}
	socket.WriteJSON(w, n.table.Explain(&q, time.Now()))
}
