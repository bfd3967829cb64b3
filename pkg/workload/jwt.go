package workload

import (
	"context"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sennit-mesh/sennit/pkg/ca"
)

// maxToken bounds a token that is validated, in bytes.
const maxToken = 16 << 10

// fetchJWTSVID gives a process a JWT-SVID of the service it is, for one audience.
func (s *Server) fetchJWTSVID(ctx context.Context, request *JWTSVIDRequest) (*JWTSVIDResponse, error) {
	if err := ca.CheckAudience(request.GetAudience()); err != nil {
		return nil, fail(codeInvalidArgument, err.Error())
	}
	if request.GetSpiffeId() != "" {
		if _, err := spiffeid.FromString(request.GetSpiffeId()); err != nil {
			return nil, fail(codeInvalidArgument, "invalid requested SPIFFE ID: "+err.Error())
		}
	}
	service, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	id := ca.ServiceID(s.cfg.TrustDomain, service)
	if request.GetSpiffeId() != "" && request.GetSpiffeId() != id {
		return nil, fail(codePermissionDenied, "no identity issued: the SPIFFE ID that is asked for is not this process's")
	}
	token, err := s.tokens.get(ctx, service, request.GetAudience())
	if err != nil {
		return nil, s.failed("a JWT-SVID", service, err)
	}
	return &JWTSVIDResponse{Svids: []*JWTSVID{{SpiffeId: id, Svid: token}}}, nil
}

// fetchJWTBundles tells a process the keys that verify JWT-SVIDs, now and at each change.
func (s *Server) fetchJWTBundles(ctx context.Context, c *call) error {
	return follow(ctx, s, c, func(ctx context.Context) (*JWTBundlesResponse, error) {
		if _, err := s.caller(ctx); err != nil {
			return nil, err
		}
		all := map[string][]byte{}
		for _, bundle := range s.cfg.Bundles().Bundles() {
			keys, err := bundle.JWTBundle().Marshal()
			if err != nil {
				return nil, fail(codeInternal, "a bundle cannot be written")
			}
			all[bundle.TrustDomain().IDString()] = keys
		}
		return &JWTBundlesResponse{Bundles: all}, nil
	})
}

// validateJWTSVID verifies a JWT-SVID for a process.
func (s *Server) validateJWTSVID(ctx context.Context, request *ValidateJWTSVIDRequest) (*ValidateJWTSVIDResponse, error) {
	switch {
	case request.GetAudience() == "":
		return nil, fail(codeInvalidArgument, "audience must be specified")
	case request.GetSvid() == "":
		return nil, fail(codeInvalidArgument, "svid must be specified")
	case len(request.GetSvid()) > maxToken:
		return nil, fail(codeInvalidArgument, "svid is too long")
	}
	if _, err := s.caller(ctx); err != nil {
		return nil, err
	}
	keys := jwtbundle.NewSet()
	for _, bundle := range s.cfg.Bundles().Bundles() {
		keys.Add(bundle.JWTBundle())
	}
	svid, err := jwtsvid.ParseAndValidate(request.GetSvid(), keys, []string{request.GetAudience()})
	if err != nil {
		return nil, fail(codeInvalidArgument, err.Error())
	}
	of := originOf(svid.Claims)
	if err := s.cfg.Issuer.CheckToken(svid.ID.String(), of.node, of.issued); err != nil {
		return nil, fail(codeInvalidArgument, err.Error())
	}
	claims, err := structpb.NewStruct(svid.Claims)
	if err != nil {
		return nil, fail(codeInvalidArgument, "claims cannot be written: "+err.Error())
	}
	return &ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}

// An origin is for which node a token was made, as far as it says so, and when; the zero time where it does not.
type origin struct {
	node   string
	issued time.Time
}

func originOf(claims map[string]any) (of origin) {
	of.node, _ = claims[ca.NodeClaim].(string)
	if issued, ok := claims["iat"].(float64); ok {
		of.issued = time.Unix(int64(issued), 0)
	}
	return of
}
