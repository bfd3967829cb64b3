package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// fail answers with a Status that says what was wrong. Errors that are no Status are the server's own fault.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := s.statusOf(r.Context(), err)
	if status.Code >= 500 && r.Context().Err() == nil {
		s.cfg.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(status.Details.RetryAfterSeconds))
	}
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status)
}

func (s *Server) statusOf(ctx context.Context, err error) metav1.Status {
	var known apierrors.APIStatus
	switch {
	case errors.As(err, &known):
	case ctx.Err() != nil && errors.As(context.Cause(ctx), &known): // he may no longer
	case errors.Is(err, bus.ErrFull):
		known = failure(http.StatusInsufficientStorage, metav1.StatusReasonInternalError,
			"the controller has no room to store more (free some on its disk, or raise its limit)")
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		known = failure(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "the store did not answer in time; try again")
	default:
		known = failure(http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
	}
	st := known.Status()
	st.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return st
}

func failure(code int32, reason metav1.StatusReason, message string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: code, Reason: reason, Message: message,
	}}
}

func unavailable(message string) error { return apierrors.NewServiceUnavailable(message) }

func badRequest(format string, args ...any) error {
	return failure(http.StatusBadRequest, metav1.StatusReasonBadRequest, fmt.Sprintf(format, args...))
}

func unauthorized(format string, args ...any) error {
	return failure(http.StatusUnauthorized, metav1.StatusReasonUnauthorized, fmt.Sprintf(format, args...))
}

func forbidden(k *api.Kind, name string, err error) error {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		return err
	}
	return apierrors.NewForbidden(k.GroupResource(), name, err)
}

func notFound(r *request) error { return apierrors.NewNotFound(r.kind.GroupResource(), r.name) }

func noSuchPath(path string) error {
	return failure(http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("the server has no resource at %s", path))
}

func methodNotAllowed(r *request) error {
	return apierrors.NewMethodNotSupported(r.kind.GroupResource(), strings.ToLower(r.Method))
}

func conflict(k *api.Kind, name, format string, args ...any) error {
	return apierrors.NewConflict(k.GroupResource(), name, fmt.Errorf(format, args...))
}

func expired(format string, args ...any) error {
	return apierrors.NewResourceExpired(fmt.Sprintf(format, args...))
}

// future answers a resourceVersion that is not there yet, in the form that clients wait on.
func future(asked string, have string) error {
	e := failure(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, fmt.Sprintf("Timeout: Too large resource version: %s, current: %s", asked, have))
	e.ErrStatus.Details = &metav1.StatusDetails{
		RetryAfterSeconds: 1,
		Causes:            []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}},
	}
	return e
}

func tooLarge(limit int) error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d bytes", limit))
}

func tooMany(format string, args ...any) error {
	return apierrors.NewTooManyRequests(fmt.Sprintf(format, args...), 5)
}

func unsupportedType(got string, want ...string) error {
	return failure(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		fmt.Sprintf("the body of type %q cannot be read here; send %s", got, strings.Join(want, " or ")))
}

// invalid answers a document that breaks rules, with a cause for each field.
func invalid(k *api.Kind, name string, problems []api.Problem) error {
	e := failure(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid,
		fmt.Sprintf("%s %q is invalid: %s", strings.TrimSuffix(k.Name+"."+k.Group, "."), name, lines(problems)))
	e.ErrStatus.Details = &metav1.StatusDetails{Group: k.Group, Kind: k.Name, Name: name, Causes: causes(problems)}
	return e
}

// strictError answers a document with fields that are unknown or given twice.
func strictError(problems []api.Problem) error {
	e := failure(http.StatusBadRequest, metav1.StatusReasonBadRequest, "strict decoding error: "+lines(problems))
	e.ErrStatus.Details = &metav1.StatusDetails{Causes: causes(problems)}
	return e
}

func lines(problems []api.Problem) string {
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.String()
	}
	if len(texts) == 1 {
		return texts[0]
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

func causes(problems []api.Problem) []metav1.StatusCause {
	out := make([]metav1.StatusCause, len(problems))
	for i, p := range problems {
		out[i] = metav1.StatusCause{Type: causeOf(p.Reason), Message: p.Message, Field: p.Path}
	}
	return out
}

func causeOf(r api.Reason) metav1.CauseType {
	switch r {
	case api.UnknownField:
		return "FieldValueUnknown"
	case api.DuplicateField, api.DuplicateValue:
		return metav1.CauseTypeFieldValueDuplicate
	case api.WrongType:
		return metav1.CauseTypeTypeInvalid
	case api.Required:
		return metav1.CauseTypeFieldValueRequired
	case api.NotSupported:
		return metav1.CauseTypeFieldValueNotSupported
	case api.TooMany:
		return metav1.CauseTypeTooMany
	default:
		return metav1.CauseTypeFieldValueInvalid
	}
}
