package node

import (
	"bytes"
	"crypto/ecdh"
	"errors"
	"log/slog"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/login"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Logins are how people sign in at the gateways that run here, as far as this node knows what it takes. take is for one
// goroutine.
type logins struct {
	key  *ecdh.PrivateKey
	log  *slog.Logger
	open atomic.Pointer[map[loginAt]openLogin]
}

// A loginAt is one policy at one gateway.
type loginAt struct {
	gateway exchange.ServiceName
	policy  string
}

type openLogin struct {
	*login.Login                 // nil: it cannot be made
	body         *snapshot.Login // that it was made from
}

// of is proxy.Outbound's.
func (l *logins) of(gateway exchange.ServiceName, policy string) *login.Login {
	if all := l.open.Load(); all != nil {
		return (*all)[loginAt{gateway, policy}].Login
	}
	return nil
}

// take makes those of all gateways that run here. One that did not change goes on with what it knows of its issuer.
func (l *logins) take(bodies map[exchange.ServiceName]*snapshot.Ingress) {
	next := map[loginAt]openLogin{}
	for gateway, body := range bodies {
		for _, policy := range body.GetAuthentications() {
			if policy.GetLogin() == nil {
				continue
			}
			at := loginAt{gateway, policy.GetOrigin()}
			if all := l.open.Load(); all != nil {
				if before, known := (*all)[at]; known && proto.Equal(before.body, policy.Login) {
					next[at] = before
					continue
				}
			}
			made, err := l.make(at, policy.Login)
			if err != nil {
				l.log.Warn("nobody can sign in at a gateway", "service", gateway.String(), "policy", at.policy, "err", err)
			}
			next[at] = openLogin{made, policy.Login}
		}
	}
	l.open.Store(&next)
}

func (l *logins) make(at loginAt, body *snapshot.Login) (*login.Login, error) {
	mine := l.key.PublicKey().Bytes()
	for _, one := range body.GetSecrets() {
		if !bytes.Equal(one.GetRecipient(), mine) {
			continue
		}
		opened, err := snapshot.OpenKey(l.key, snapshot.LoginOf(at.gateway.String(), at.policy), one.GetSealed())
		if err != nil {
			return nil, err
		}
		var secrets snapshot.LoginSecrets
		if err := proto.Unmarshal(opened, &secrets); err != nil {
			return nil, err
		}
		return login.New(at.policy, body, &secrets)
	}
	return nil, errors.New("what it takes is not sealed to this node yet")
}
