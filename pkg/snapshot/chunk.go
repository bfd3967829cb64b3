package snapshot

import (
	"strconv"
	"strings"
)

// ChunkSubject is where one chunk of a subject is stored: a last token of its own, for every subject but
// those of the beat and the roster, which are one message each.
func ChunkSubject(subject string, chunk uint32) string {
	if !chunked(subject) {
		return subject
	}
	return subject + "." + strconv.FormatUint(uint64(chunk), 10)
}

// ChunkSubjects is the pattern of all chunks of a subject, as it is subscribed to: with Live, the delivered
// ones.
func ChunkSubjects(subject string) string {
	if !chunked(subject) {
		return subject
	}
	return subject + ".*"
}

func chunked(subject string) bool { return subject != BeatSubject && subject != RosterSubject }

// StoredSubject is the subject of configuration under which the server stored what it republished as subject; the
// opposite of Live. Other subjects come back unchanged.
func StoredSubject(subject string) string {
	if rest, ok := strings.CutPrefix(subject, LivePrefix); ok {
		return ConfigPrefix + rest
	}
	return subject
}

// SplitChunk cuts the chunk's token off a stored subject. It fails for what ChunkSubject does not return.
func SplitChunk(stored string) (subject string, chunk uint32, ok bool) {
	if !chunked(stored) {
		return stored, 0, true
	}
	dot := strings.LastIndexByte(stored, '.')
	if dot < 0 || !strings.HasPrefix(stored, ConfigPrefix) {
		return "", 0, false
	}
	n, err := strconv.ParseUint(stored[dot+1:], 10, 32)
	if err != nil || n >= MaxChunks || stored[:dot]+"."+strconv.FormatUint(n, 10) != stored {
		return "", 0, false
	}
	return stored[:dot], uint32(n), true
}
