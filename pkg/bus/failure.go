package bus

import (
	"errors"
	"fmt"
	"strings"
)

// Error is a request's failure as the controller tells it to the node. A Handler returns one to choose what
// the node is told; any other error reaches the node as ErrorCode_ERROR_CODE_INTERNAL, without its text.
type Error struct {
	Code    ErrorCode
	Message string // for people
}

func (e *Error) Error() string {
	code := strings.TrimPrefix(e.Code.String(), "ERROR_CODE_")
	return fmt.Sprintf("%s (%s)", e.Message, strings.ReplaceAll(strings.ToLower(code), "_", " "))
}

// ErrNoController is returned when no controller serves a verb, or none answered in time. The request may
// have been carried out in the second case.
var ErrNoController = errors.New("no controller answered")

// Code is the code of a failure that a controller told, or ERROR_CODE_UNSPECIFIED for every other error.
func Code(err error) ErrorCode {
	if told := (*Error)(nil); errors.As(err, &told) {
		return told.Code
	}
	return ErrorCode_ERROR_CODE_UNSPECIFIED
}
