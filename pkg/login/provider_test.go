package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A web is an issuer without a network.
type web func(*http.Request) (*http.Response, error)

func (w web) RoundTrip(r *http.Request) (*http.Response, error) { return w(r) }

func says(status int, text string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(text))}
}

// TestConfigurationOfAnIssuerThatIsAway: what is known of it stays, and it is asked again after a while.
func TestConfigurationOfAnIssuerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLogin(t, "shop/a", "shop", 0)
		away, asked := true, 0
		l.provider.client = &http.Client{Transport: web(func(r *http.Request) (*http.Response, error) {
			asked++
			if away || r.Context().Err() != nil {
				return nil, errors.New("away")
			}
			return says(http.StatusOK, fmt.Sprintf(`{"issuer": "https://id.example", "token_endpoint": "https://id.example/%d"}`, asked)), nil
		})}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for _, step := range []struct {
			name  string
			after time.Duration
			away  bool
			known string // the number of the answer
			asked int
		}{
			{"nothing is known", 0, true, "", 1},
			{"it is left alone", configurationAgain - 1, false, "", 1},
			{"it answers somebody who has gone", 1, false, "2", 2},
			{"it is not asked for what is known", configurationLives - 1, true, "2", 2},
			{"it is away", 1, true, "2", 3},
			{"it is left alone, and what was known holds", configurationAgain - 1, true, "2", 3},
			{"it is still away", 1, true, "2", 4},
			{"it is back", configurationAgain, false, "5", 5},
		} {
			time.Sleep(step.after)
			away = step.away
			known, err := l.known(gone)
			got := ""
			if known != nil {
				got = strings.TrimPrefix(known.TokenURL, "https://id.example/")
			}
			if got != step.known || (err == nil) != (step.known != "") || asked != step.asked {
				t.Errorf("%s: answer %q, %v, asked %d times", step.name, got, err, asked)
			}
		}
	})
}
