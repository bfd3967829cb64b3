package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
)

// parseMoment reads a time as people give it: 2026-01-02T15:04:05Z, 2026-01-02 15:04 in local time, or how long ago.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil {
		if ago < 0 {
			return time.Time{}, fmt.Errorf("is how long ago, and must not be negative, is %q", text)
		}
		return now.Add(-ago), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("must be a time as 2026-01-02T15:04:05Z or \"2026-01-02 15:04\", or how long ago as 90m, is %q", text)
}

// optionalMoment is the zero time where nothing is given.
func optionalMoment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	return parseMoment(text, now)
}

// revisionOf is the revision that --at or --to names: its number, or the last one up to a time.
func revisionOf(cmd *cobra.Command, c *client.Client, flag, text string) (uint64, error) {
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		if n == 0 {
			return 0, misused(cmd, "%s: revisions begin at 1", flag)
		}
		return n, nil
	}
	t, err := parseMoment(text, time.Now())
	if err != nil {
		return 0, misused(cmd, "%s takes a revision's number, as `sennit audit log` shows it, or a time; it %v", flag, err)
	}
	point, err := c.RevisionAt(cmd.Context(), t)
	if err != nil {
		return 0, err
	}
	if point.Revision == 0 {
		return 0, fmt.Errorf("there was no document yet at %s (`sennit audit log` shows when the first was made)", t.Format(time.RFC3339))
	}
	return point.Revision, nil
}

// writeLine prints v as one line of JSON.
func writeLine(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	return out.Encode(v)
}
