package ca

import (
	"errors"
	"fmt"
)

// What callers decide on. Messages that wrap these name the node or the file, and the remedy.
var (
	ErrTokenMalformed = errors.New("this is not a whole join token")
	ErrTokenUnknown   = errors.New("no controller of this cluster knows this join token")
	ErrTokenUsed      = errors.New("join token was used before")
	ErrTokenExpired   = errors.New("join token has expired")
	ErrTokenTampered  = errors.New("join token was altered")
	ErrTokenForeign   = errors.New("join token is of another cluster")
	ErrNameTaken      = errors.New("another host has this node's name")
	ErrClock          = errors.New("this host's clock and the controller's disagree")
	ErrNotAllowed     = errors.New("the registry does not allow this node to run the service")
	ErrFrozen         = errors.New("two hosts use this node's identity; it is frozen")
	ErrOldGeneration  = errors.New("this host's identity is older than the registry's")
	ErrAbsent         = errors.New("this node was away for longer than the limit")
	ErrRemoved        = errors.New("this node was removed from the cluster")
	ErrBadRequest     = errors.New("the controller cannot read the request")
	ErrOldEpoch       = errors.New("a controller of an older epoch answers")
	ErrNotAttested    = errors.New("the host did not prove which machine it is")
	ErrTryAgain       = errors.New("the controller cannot answer now")
	ErrUntrusted      = errors.New("the answer is not from this cluster's controllers")
	ErrNotJoined      = errors.New("this host has not joined a cluster")
	ErrAlreadyJoined  = errors.New("this host has joined before")
	ErrNoCertificate  = errors.New("no valid certificate")
	ErrPeer           = errors.New("the peer's certificate is refused")
	ErrCorrupt        = errors.New("the file is damaged")
	ErrPermissions    = errors.New("others can read the file")
	ErrInUse          = errors.New("another process has the file open")
	ErrUnknownNode    = errors.New("no such node")
)

// refusals are the sentinels that cross the bus, by their code.
var refusals = map[RefusalCode]error{
	RefusalCode_REFUSAL_CODE_TOKEN_UNKNOWN:  ErrTokenUnknown,
	RefusalCode_REFUSAL_CODE_TOKEN_USED:     ErrTokenUsed,
	RefusalCode_REFUSAL_CODE_TOKEN_EXPIRED:  ErrTokenExpired,
	RefusalCode_REFUSAL_CODE_TOKEN_TAMPERED: ErrTokenTampered,
	RefusalCode_REFUSAL_CODE_TOKEN_FOREIGN:  ErrTokenForeign,
	RefusalCode_REFUSAL_CODE_NAME_TAKEN:     ErrNameTaken,
	RefusalCode_REFUSAL_CODE_CLOCK:          ErrClock,
	RefusalCode_REFUSAL_CODE_NOT_ALLOWED:    ErrNotAllowed,
	RefusalCode_REFUSAL_CODE_FROZEN:         ErrFrozen,
	RefusalCode_REFUSAL_CODE_OLD_GENERATION: ErrOldGeneration,
	RefusalCode_REFUSAL_CODE_ABSENT:         ErrAbsent,
	RefusalCode_REFUSAL_CODE_REMOVED:        ErrRemoved,
	RefusalCode_REFUSAL_CODE_BAD_REQUEST:    ErrBadRequest,
	RefusalCode_REFUSAL_CODE_NOT_ATTESTED:   ErrNotAttested,
	RefusalCode_REFUSAL_CODE_TRY_AGAIN:      ErrTryAgain,
}

// A refused error keeps the sentinel for callers and the controller's sentence for people.
type refused struct {
	sentinel error
	message  string
}

func (r *refused) Error() string { return r.message }
func (r *refused) Unwrap() error { return r.sentinel }

// refuse makes the error of a refusal: the sentinel's text, then what the format says (the details and the
// remedy).
func refuse(sentinel error, format string, args ...any) error {
	return &refused{sentinel, sentinel.Error() + ": " + fmt.Sprintf(format, args...)}
}

// refusalOf is what crosses the bus for err. What is not for the node to know stays in the controller.
func refusalOf(err error) *Refusal {
	for code, sentinel := range refusals {
		if errors.Is(err, sentinel) {
			return &Refusal{Code: code, Message: err.Error()}
		}
	}
	return &Refusal{
		Code:    RefusalCode_REFUSAL_CODE_TRY_AGAIN,
		Message: ErrTryAgain.Error() + ": see the controller's log; the node asks again by itself",
	}
}

// err gives a refusal back as the error that the controller had.
func (r *Refusal) err() error {
	sentinel, ok := refusals[r.GetCode()]
	if !ok {
		sentinel = ErrTryAgain
	}
	return &refused{sentinel, r.GetMessage()}
}
