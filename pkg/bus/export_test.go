package bus

import (
	"context"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// Subscribed lists what is subscribed to under a prefix, by anybody.
func (s *Server) Subscribed(prefix string) (subjects []string) {
	list, err := s.nats.Connz(&server.ConnzOptions{Subscriptions: true, Limit: 1024})
	if err != nil {
		panic(err)
	}
	for _, conn := range list.Conns {
		for _, subject := range conn.Subs {
			if strings.HasPrefix(subject, prefix) {
				subjects = append(subjects, subject)
			}
		}
	}
	return subjects
}

// SyncsAlways tells whether the server syncs before it acknowledges.
func (s *Server) SyncsAlways() bool {
	return s.nats.JetStreamConfig().SyncAlways
}

// MaxNodeConns is maxNodeConns.
const MaxNodeConns = maxNodeConns

// ChangeTime is changeTime.
const ChangeTime = changeTime

// Consumers counts the consumers that the server has of a stream.
func (c *Conn) Consumers(ctx context.Context, stream Stream) (int, error) {
	s, err := c.js.Stream(ctx, string(stream))
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().State.Consumers, nil
}
