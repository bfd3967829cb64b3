package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Stream names one stream of the controllers' account.
type Stream string

// The streams.
const (
	StreamResource Stream = "SENNIT_RESOURCE" // sennit.resource.>: the operators' documents, every revision
	StreamStatus   Stream = "SENNIT_STATUS"   // sennit.status.>: their status, the last of each subject
	StreamInstance Stream = "SENNIT_INSTANCE" // sennit.instance.>: registrations, the last of each subject
	StreamConfig   Stream = "SENNIT_CONFIG"   // sennit.config.>: snapshots, the last of each subject, republished
	StreamRegistry Stream = "SENNIT_REGISTRY" // sennit.registry.>: nodes and tokens, the last of each subject
	StreamQuota    Stream = "SENNIT_QUOTA"    // sennit.quota.>: what is reserved of limits, the last of each subject, for two days
	StreamAudit    Stream = "SENNIT_AUDIT"    // sennit.audit.>: what happened, a chain for each controller
)

// streamSettings are the same at each start, so that a change of them here reaches streams that exist.
//
// All are on file, and the server syncs them before it acknowledges. What is full refuses to store more
// and never forgets what it acknowledged. No direct gets: a follower may answer them with old state.
// Nothing expires but what is reserved of limits: no window is longer than a day.
func streamSettings(stream Stream, replicas int) jetstream.StreamConfig {
	prefix := "sennit." + strings.ToLower(strings.TrimPrefix(string(stream), "SENNIT_")) + "."
	settings := jetstream.StreamConfig{
		Name:               string(stream),
		Subjects:           []string{prefix + ">"},
		Retention:          jetstream.LimitsPolicy,
		Storage:            jetstream.FileStorage,
		Discard:            jetstream.DiscardNew,
		Replicas:           replicas,
		MaxMsgs:            -1,
		MaxBytes:           -1,
		MaxMsgsPerSubject:  1,
		MaxMsgSize:         maxPayload,
		Duplicates:         2 * time.Minute,
		DenyDelete:         true,
		AllowDirect:        false,
		AllowAtomicPublish: true,
	}
	switch stream {
	case StreamResource, StreamAudit: // nobody removes any of the history
		settings.MaxMsgsPerSubject = -1
		settings.DenyPurge = true
	case StreamQuota:
		settings.MaxAge = 48 * time.Hour
	case StreamConfig:
		settings.RePublish = &jetstream.RePublish{Source: snapshot.ConfigPrefix + ">", Destination: snapshot.LivePrefix + ">"}
	}
	return settings
}

// EnsureStreams makes the streams that are missing and brings the others up to these settings. replicas is
// 1 or 3. It changes nothing that is stored. A connection that breaks off meanwhile is waited for until ctx ends.
func (c *Conn) EnsureStreams(ctx context.Context, replicas int) error {
	for _, stream := range []Stream{StreamResource, StreamStatus, StreamInstance, StreamConfig, StreamRegistry, StreamQuota, StreamAudit} {
		_, err := c.js.CreateOrUpdateStream(ctx, streamSettings(stream, replicas))
		for errors.Is(err, nats.ErrReconnectBufExceeded) && c.Ready(ctx) == nil { // it was not sent
			_, err = c.js.CreateOrUpdateStream(ctx, streamSettings(stream, replicas))
		}
		if err != nil {
			return fmt.Errorf("prepare stream %s: %w", stream, storeError(err))
		}
	}
	return nil
}

// ErrFull is returned when there is no room to store more.
var ErrFull = errors.New("the bus has no room to store more")

// storeError tells apart what callers decide on.
func storeError(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch api.ErrorCode {
	case 10071, 10164: // wrong last sequence, and the same of a constant
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case 10047, 10023, 10077: // storage resources exceeded, insufficient resources, message store failed
		return fmt.Errorf("%w: %w (free disk space where the controller keeps its state)", ErrFull, err)
	case 10037:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}
