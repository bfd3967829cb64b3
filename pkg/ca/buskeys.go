package ca

import (
	"errors"
	"time"

	"github.com/nats-io/jwt/v2"
)

// AnnounceBus begins to replace the keys of the bus. They are the controller's to make, which it does when it starts again,
// and follows with ActivateBus. It cannot be taken back.
func (a *Authority) AnnounceBus() error {
	return a.step("replace the keys of the bus", NotRotating, func(h *holding) error {
		now := a.cfg.Now().UnixMilli()
		h.state.Rotation = &RotationState{Bus: true, Phase: RotationPhase_ROTATION_PHASE_ANNOUNCED, BegunUnixMs: now, SinceUnixMs: now}
		return nil
	})
}

// ActivateBus asks nodes to renew, each at a point within spread that it draws, since the bus has new keys: a renewal brings users
// that they made. Until Withdraw, users of before are let in too.
func (a *Authority) ActivateBus(spread time.Duration) error {
	return a.step("have users of the bus renewed", Announced, func(h *holding) error {
		return a.recall(h, h.issuer(false).certificate, spread, h.roster.GetDelegation())
	})
}

// errBusAnnounced is why it is too late to take back new keys of the bus.
var errBusAnnounced = errors.New("the bus has its new keys already: let nodes renew")

// busIssuer is the account of the bus that made a user's token; empty where it is none.
func busIssuer(token string) string {
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return ""
	}
	return claims.Issuer
}
