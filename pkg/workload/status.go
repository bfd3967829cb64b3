package workload

import (
	"context"
	"errors"
	"fmt"
)

// A code says how a call of gRPC ended (https://grpc.io/docs/guides/status-codes).
type code int

const (
	codeCanceled          code = 1
	codeUnknown           code = 2
	codeInvalidArgument   code = 3
	codeDeadlineExceeded  code = 4
	codePermissionDenied  code = 7
	codeResourceExhausted code = 8
	codeUnimplemented     code = 12
	codeInternal          code = 13
	codeUnavailable       code = 14
)

// A failure ends a call. A process reads its words.
type failure struct {
	code  code
	words string
}

// Error returns the words.
func (f *failure) Error() string { return f.words }

func fail(as code, words string) error { return &failure{as, words} }

func failf(as code, format string, of ...any) error { return &failure{as, fmt.Sprintf(format, of...)} }

// outcome is what a call that returned err ends with; 0: well.
func outcome(err error) (as code, words string) {
	var failed *failure
	switch {
	case err == nil:
		return 0, ""
	case errors.As(err, &failed):
		return failed.code, failed.words
	case errors.Is(err, context.DeadlineExceeded):
		return codeDeadlineExceeded, err.Error()
	case errors.Is(err, context.Canceled):
		return codeCanceled, err.Error()
	}
	return codeUnknown, err.Error()
}
