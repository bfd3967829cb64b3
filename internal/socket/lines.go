package socket

import (
	"encoding/json"
	"net/http"
	"time"
)

// lineTime is how long a caller may take no line before it counts as gone.
const lineTime = 10 * time.Second

// Lines begins an answer of lines of JSON, and returns what writes one so that the caller has it at once. It fails
// where the caller has gone, or takes nothing for ten seconds: a command that was stopped must not keep up what it
// watches.
func Lines(w http.ResponseWriter) (write func(v any) error) {
	w.Header().Set("Content-Type", "application/json")
	control, out := http.NewResponseController(w), json.NewEncoder(w)
	return func(v any) error {
		if err := control.SetWriteDeadline(time.Now().Add(lineTime)); err != nil {
			return err
		}
		if err := out.Encode(v); err != nil {
			return err
		}
		return control.Flush()
	}
}
