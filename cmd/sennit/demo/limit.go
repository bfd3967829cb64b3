package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	clientHeader = "X-Client" // says who asks: it is what the quota counts by
	perClient    = 100        // requests a second that each may send; a customer needs at most one for each pause
	scrapers     = 4          // requests that it has under way, all under one name
	scrapePause  = 5 * time.Millisecond
)

// limit applies a quota that holds for every client alike, and lets one come that wants more than it allows.
func (s *show) limit(ctx context.Context) error {
	if err := s.apply(ctx, quotaDocument()); err != nil {
		return err
	}
	s.view.say("QuotaPolicy storefront: %d requests a second for each value of %s.\n"+
		"A scraper comes that wants %d. By hand: sennit quota", perClient, clientHeader, scrapers*int(time.Second/scrapePause))
	scraper := newScraper(s.ports.of("scraper → storefront"))
	scraping, stop := context.WithCancel(ctx)
	var working sync.WaitGroup
	working.Go(func() { scraper.run(scraping) })
	err := s.watch(ctx, stepTime)
	stop()
	working.Wait()
	if err != nil {
		return err
	}
	limited := s.traffic.limitedCount()
	s.view.say("The scraper got %d answers and %d times 429. Customers that were limited: %d.", scraper.served, scraper.limited, limited)
	return scraper.check(limited)
}

// check wants that the scraper was limited, got what it may have, and was the only one. It must have ended.
func (s *scraper) check(limitedCustomers int64) error {
	switch {
	case limitedCustomers > 0:
		return fmt.Errorf("%w: a quota of %d requests a second limited customers %d times, who stay below it", ErrNotShown, perClient, limitedCustomers)
	case s.failed > 0:
		return fmt.Errorf("%w: the scraper failed %d times for another reason than its quota: %s", ErrNotShown, s.failed, s.lastFail)
	case s.limited == 0:
		return fmt.Errorf("%w: the scraper was not limited, in %d requests", ErrNotShown, s.served)
	case s.served == 0:
		return fmt.Errorf("%w: nothing that the scraper asked for was served", ErrNotShown)
	}
	return nil
}

// quotaDocument limits each client of the storefront.
func quotaDocument() document {
	return document{"/apis/sennit.dev/v1alpha1", "quotapolicies", "storefront", map[string]any{
		"apiVersion": "sennit.dev/v1alpha1", "kind": "QuotaPolicy",
		"metadata": map[string]any{"namespace": "shop", "name": "storefront"},
		"spec": map[string]any{
			"targetRefs": []any{map[string]any{"kind": "Service", "name": "storefront"}},
			"limits": []any{map[string]any{
				"name": "each-client", "requests": perClient, "per": "Second",
				"by": []any{map[string]any{"type": "Header", "name": clientHeader}},
			}},
		},
	}}
}

// A scraper reads prices as fast as it can. That it is limited is no failure.
type scraper struct {
	url    string
	client *http.Client

	mu       sync.Mutex
	served   int64
	limited  int64
	failed   int64
	lastFail string
}

func newScraper(address string) *scraper {
	return &scraper{
		url:    "http://" + address + "/prices",
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: scrapers}},
	}
}

// run reads until ctx ends, and finishes what is under way then.
func (s *scraper) run(ctx context.Context) {
	defer s.client.CloseIdleConnections()
	var group sync.WaitGroup
	for range scrapers {
		group.Go(func() {
			everyTick(ctx, scrapePause, func() { s.count(s.read(context.WithoutCancel(ctx))) })
		})
	}
	group.Wait()
}

func (s *scraper) read(ctx context.Context) error {
	body, err := get(ctx, s.client, s.url, "scraper")
	if err == nil && !json.Valid(body) {
		err = fmt.Errorf("%s answered what is no JSON", s.url)
	}
	return err
}

func (s *scraper) count(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.served++
	case errors.Is(err, errLimited):
		s.limited++
	default:
		s.failed++
		s.lastFail = err.Error()
	}
}

// errLimited is an answer that a quota gave.
var errLimited = errors.New("a quota has nothing left")

// get makes a request under a client's name and returns the body of an answer of 200.
func get(ctx context.Context, client *http.Client, url, name string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(clientHeader, name)
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	reason := response.Header.Get("sennit-reason")
	switch {
	case response.StatusCode == http.StatusTooManyRequests && reason == "quota-exceeded":
		return nil, fmt.Errorf("%w (%s)", errLimited, response.Header.Get("sennit-limit"))
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s (%s): %s", response.Status, reason, body)
	}
	return body, nil
}
