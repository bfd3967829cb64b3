package acme

import (
	"crypto"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
)

// HTTP proves the name of this host by answering there, in plain HTTP (RFC 8555 §8.3), while an order is open.
type HTTP struct {
	// Name is the DNS name or the IP address of this host, and becomes the intermediate's common name.
	Name string `yaml:"name"`
	// Listen is where the authority's question arrives; empty: :80, as the standard has it.
	Listen string `yaml:"listen"`
}

// answerTime bounds one question, which anybody may ask while an order is open, and maxAsking how many connections ask at once: they
// take files of the controller's.
const (
	answerTime = 10 * time.Second
	maxAsking  = 100
)

func (a *Authority) answerHTTP(client *acme.Client, challenge *acme.Challenge, _ crypto.Signer) (end func(), err error) {
	words, err := client.HTTP01ChallengeResponse(challenge.Token)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", a.cfg.HTTP.Listen)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	path := client.HTTP01ChallengePath(challenge.Token)
	var asking atomic.Int32
	server := &http.Server{
		ReadTimeout: answerTime, WriteTimeout: answerTime, IdleTimeout: answerTime, MaxHeaderBytes: 8 << 10,
		ConnState: func(conn net.Conn, now http.ConnState) {
			switch now {
			case http.StateNew:
				if asking.Add(1) > maxAsking {
					conn.Close()
				}
			case http.StateClosed:
				asking.Add(-1)
			default:
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != path {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Type", "text/plain")
			_, _ = w.Write([]byte(words)) // whoever asked has gone
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with Close
	}()
	return func() {
		_ = server.Close()
		<-done
	}, nil
}
