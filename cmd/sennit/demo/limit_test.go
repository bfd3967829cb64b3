package demo

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Only what a quota refused is limited: a 429 of the service itself is a failure.
func TestScraperTellsItsQuotaFromFailures(t *testing.T) {
	for _, tt := range []struct {
		name, reason            string
		code                    int
		served, limited, failed int64
	}{
		{"served", "", 200, 1, 0, 0},
		{"beyond the quota", "quota-exceeded", 429, 0, 1, 0},
		{"refused by the service", "", 429, 0, 0, 1},
		{"no lease", "quota-unavailable", 503, 0, 0, 1},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get(clientHeader); got != "scraper" {
				t.Errorf("%s: the request comes from %q", tt.name, got)
			}
			if tt.reason != "" {
				w.Header().Set("sennit-reason", tt.reason)
			}
			w.WriteHeader(tt.code)
			w.Write([]byte("{}"))
		}))
		t.Cleanup(server.Close)
		s := newScraper(server.Listener.Addr().String())
		s.count(s.read(t.Context()))
		if s.served != tt.served || s.limited != tt.limited || s.failed != tt.failed {
			t.Errorf("%s: %d served, %d limited, %d failed: %s", tt.name, s.served, s.limited, s.failed, s.lastFail)
		}
	}
}

func TestScraperReadsPricesOfTheStorefront(t *testing.T) {
	s := newScraper(openShop(t, http.NotFoundHandler()))
	if err := s.read(t.Context()); err != nil {
		t.Error(err)
	}
}

// A customer who is limited is a failed request as well.
func TestLimitedCustomerIsCounted(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("sennit-reason", "quota-exceeded")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(server.Close)
	customers := newTraffic(server.Listener.Addr().String())
	version, err := customers.checkout(t.Context(), customer(0))
	customers.count(version, err)
	if _, failed, last := customers.counts(); failed != 1 || customers.limitedCount() != 1 {
		t.Errorf("%d failed (%s), %d limited", failed, last, customers.limitedCount())
	}
}

func TestLimitMustHoldForTheScraperAlone(t *testing.T) {
	for _, tt := range []struct {
		name      string
		scraper   *scraper
		customers int64  // that were limited
		want      string // in the error; "" for none
	}{
		{"as it must be", &scraper{served: 400, limited: 1000}, 0, ""},
		{"customers were limited", &scraper{served: 400, limited: 1000}, 3, "customers 3 times"},
		{"nobody was limited", &scraper{served: 1400}, 0, "was not limited"},
		{"nothing was let through", &scraper{limited: 1400}, 0, "nothing"},
		{"it failed otherwise", &scraper{served: 400, limited: 1000, failed: 1, lastFail: "502"}, 0, "502"},
	} {
		err := tt.scraper.check(tt.customers)
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrNotShown) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
