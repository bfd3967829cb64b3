package workload

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	// Certificates are renewed at a random point between these shares of their life, as those of lanes are.
	rotateFrom = 0.5
	rotateTo   = 0.8

	askTime    = 10 * time.Second // for one request to the controllers
	retryFirst = time.Second
	retryMost  = time.Minute
	wakeMost   = 30 * time.Second // a timer does not run while a host is suspended
)

// svids are the certificates that processes of this host have, one for each service.
type svids struct {
	cfg     Config
	changed func()
	asking  singleflight.Group
	wake    chan struct{}

	mu   sync.Mutex
	held map[exchange.ServiceName]*held
}

// held is the certificate of one service.
type held struct {
	certificate *tls.Certificate // nil: none yet
	rotates     time.Time
	watchers    int // streams that wait for the next one
	failures    int
	retry       time.Time // after a failure
}

func newSVIDs(cfg Config, changed func()) *svids {
	return &svids{cfg: cfg, changed: changed, wake: make(chan struct{}, 1), held: map[exchange.ServiceName]*held{}}
}

// watch has a service's certificate renewed until release is called.
func (s *svids) watch(service exchange.ServiceName) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(service).watchers++
	s.rouse()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.of(service).watchers--
	}
}

// of is what is held of a service. The caller holds mu.
func (s *svids) of(service exchange.ServiceName) *held {
	h := s.held[service]
	if h == nil {
		h = &held{}
		s.held[service] = h
		certificate, err := s.cfg.Keeper.Load(service)
		if err != nil {
			s.cfg.Log.Warn("what was kept of a process's certificate cannot be read; another is asked for", "service", service.String(), "err", err)
		}
		if err == nil && certificate != nil && s.cfg.Issuer.Check(certificate, service) == nil {
			h.take(certificate)
		}
	}
	return h
}

func (s *svids) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// get returns a certificate that is good now, and asks for one where there is none.
func (s *svids) get(ctx context.Context, service exchange.ServiceName) (*tls.Certificate, error) {
	s.mu.Lock()
	certificate := s.of(service).certificate
	s.mu.Unlock()
	if certificate != nil && s.cfg.Issuer.Check(certificate, service) == nil {
		return certificate, nil
	}
	return s.renew(ctx, service)
}

// renew asks for another certificate; those who ask at once share the answer.
func (s *svids) renew(ctx context.Context, service exchange.ServiceName) (*tls.Certificate, error) {
	answer := s.asking.DoChan(service.String(), func() (any, error) {
		// Who asked first may have gone; others wait for the answer too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
		defer cancel()
		certificate, err := s.ask(ctx, service)
		s.mu.Lock()
		defer s.mu.Unlock()
		h := s.of(service)
		if err != nil {
			h.failures++
			h.retry = s.cfg.Now().Add(min(retryFirst<<min(h.failures-1, 16), retryMost))
			return nil, err
		}
		h.take(certificate)
		s.rouse()         // it is due at another time than the one before, or none
		defer s.changed() // the others who wait for one have it too
		return certificate, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-answer:
		if a.Err != nil {
			return nil, a.Err
		}
		return a.Val.(*tls.Certificate), nil
	}
}

func (s *svids) ask(ctx context.Context, service exchange.ServiceName) (*tls.Certificate, error) {
	certificate, err := s.cfg.Issuer.Certificate(ctx, service)
	if err != nil {
		return nil, err
	}
	if certificate.Leaf == nil {
		if certificate.Leaf, err = x509.ParseCertificate(certificate.Certificate[0]); err != nil {
			return nil, fmt.Errorf("read the certificate of %s: %w", service, err)
		}
	}
	if err := s.cfg.Issuer.Check(certificate, service); err != nil {
		return nil, err
	}
	if err := s.cfg.Keeper.Save(service, certificate); err != nil { // it is good all the same
		s.cfg.Log.Warn("a process's certificate cannot be kept, and is gone after a restart of the node", "service", service.String(), "err", err)
	}
	return certificate, nil
}

// take makes a certificate the one that is held.
func (h *held) take(certificate *tls.Certificate) {
	from := certificate.Leaf.NotBefore.Add(ca.Backdate)
	life := max(certificate.Leaf.NotAfter.Sub(from), 0)
	h.certificate, h.failures, h.retry = certificate, 0, time.Time{}
	h.rotates = from.Add(time.Duration((rotateFrom + rand.Float64()*(rotateTo-rotateFrom)) * float64(life)))
}

// due is when a certificate is to be renewed; zero: never, as nobody waits for the next.
func (h *held) due() time.Time {
	if h.watchers == 0 || h.certificate == nil {
		return time.Time{}
	}
	if h.retry.After(h.rotates) {
		return h.retry
	}
	return h.rotates
}

// run renews what is due until ctx ends.
func (s *svids) run(ctx context.Context) error {
	for {
		now := s.cfg.Now().Round(0)
		wait, due := wakeMost, []exchange.ServiceName{}
		s.mu.Lock()
		for service, h := range s.held {
			at := h.due()
			if at.IsZero() {
				continue
			}
			if left := at.Round(0).Sub(now); left > 0 {
				wait = min(wait, left)
			} else {
				due = append(due, service)
			}
		}
		s.mu.Unlock()
		for _, service := range due {
			if _, err := s.renew(ctx, service); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("a process's certificate could not be renewed", "service", service.String(), "err", err)
			}
		}
		if len(due) > 0 && ctx.Err() == nil {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}
