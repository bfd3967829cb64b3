package demo

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// ShopConfig says which process of the shop to be.
type ShopConfig struct {
	Role        string // storefront, orders, payments, or bank, which is outside
	Version     string // reported in every answer
	Listen      string // host:port
	Certificate string // of the bank: file to write the certificate to with which it serves HTTPS
	Upstream    string // host:port of the local listener through which the next service is called; payments has none
}

// RunShop runs one process of the shop until ctx ends. They are ordinary HTTP servers that know nothing of
// the mesh: storefront calls orders, orders calls payments, each through an address on its own host. The bank is an
// HTTPS server.
func RunShop(ctx context.Context, cfg ShopConfig) error {
	handler, err := shopHandler(cfg)
	if err != nil {
		return err
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Role, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	if cfg.Certificate != "" {
		own, err := ownCertificate(bankName, cfg.Certificate)
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12})
	}
	stop := context.AfterFunc(ctx, func() {
		graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = server.Shutdown(graceful) // what has not ended in two seconds ends with the process
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s: %w", cfg.Role, err)
	}
	return nil
}

// A receipt is what every process of the shop answers: who it is, and what the one behind it said.
type receipt struct {
	Service string   `json:"service"`
	Version string   `json:"version"`
	Charged string   `json:"charged,omitempty"`
	For     string   `json:"for,omitempty"` // the user that X-User names
	Behind  *receipt `json:"behind,omitempty"`
}

func shopHandler(cfg ShopConfig) (http.Handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	self := receipt{Service: cfg.Role, Version: cfg.Version}
	switch cfg.Role {
	case "payments":
		self.Charged = "12.50"
		mux.HandleFunc("GET /charge", func(w http.ResponseWriter, r *http.Request) {
			answer := self
			answer.For = r.Header.Get("X-User")
			writeJSON(w, answer)
		})
	case "bank":
		mux.HandleFunc("GET /rates", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, self) })
	case "orders":
		mux.HandleFunc("GET /order", passOn(self, "http://"+cfg.Upstream+"/charge"))
	case "storefront":
		mux.HandleFunc("GET /checkout", passOn(self, "http://"+cfg.Upstream+"/order"))
		mux.HandleFunc("GET /prices", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, map[string]string{"all": "12.50"}) })
	default:
		return nil, fmt.Errorf("no process %q in the shop (there are storefront, orders, payments, bank)", cfg.Role)
	}
	return mux, nil
}

// passOn answers with what the next service answered, or with its failure.
func passOn(self receipt, url string) http.HandlerFunc {
	client := &http.Client{
		Timeout:   15 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute},
	}
	return func(w http.ResponseWriter, r *http.Request) {
		request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		response, err := client.Do(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			why, _ := io.ReadAll(io.LimitReader(response.Body, 1024)) // as much of it as there is
			http.Error(w, fmt.Sprintf("%s answered %s: %s", url, response.Status, why), http.StatusBadGateway)
			return
		}
		answer := self
		if err := json.NewDecoder(response.Body).Decode(&answer.Behind); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		writeJSON(w, answer)
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the caller has gone: nobody is left to tell
}

// versionOf returns the version of the service of that name in a chain of receipts.
func (r *receipt) versionOf(service string) string {
	for ; r != nil; r = r.Behind {
		if r.Service == service {
			return r.Version
		}
	}
	return ""
}
