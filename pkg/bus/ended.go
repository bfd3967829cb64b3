package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
)

// never is later than the time at which any token of a user is made.
var never = time.Unix(1<<40, 0)

// endUsers makes an account refuse users, by their public nkeys, whatever tokens they show.
func endUsers(claims *jwt.AccountClaims, keys []string) {
	for _, key := range keys {
		claims.RevokeAt(key, never)
	}
}

// End ends the connections of users in the account of nodes, by their public nkeys, and lets them in no more. These are
// all that are ended: one that was ended before and is not among them is let in again. The caller keeps them, and gives
// them to the next server (ServerConfig.Ended). When it returns nil, the server refuses them; it waits for no longer than ctx.
func (s *Server) End(ctx context.Context, keys []string) error {
	if err := s.cut.order(ctx, func() { s.cut.ended = keys }); err != nil {
		return fmt.Errorf("end users of the bus: %w", err)
	}
	return nil
}
