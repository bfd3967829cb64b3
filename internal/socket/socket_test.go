package socket

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A path that is too long for clients to connect to is refused, and not opened by way of a shorter name.
func TestListenRefusesAPathThatNobodyCouldDial(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, tt := range []struct {
		length int
		good   bool
	}{{maxPath, true}, {maxPath + 1, false}} {
		file := strings.Repeat("s", tt.length)
		l, err := Listen(t.Context(), file)
		if tt.good {
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("unix", file)
			if err != nil {
				t.Fatalf("the longest path cannot be dialled: %v", err)
			}
			conn.Close()
			l.Close()
			continue
		}
		if err == nil {
			l.Close()
			t.Fatal("it was opened")
		}
		if !strings.Contains(err.Error(), "--socket") {
			t.Errorf("no remedy: %v", err)
		}
	}
}

func TestListen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run", "d.sock")
	l, err := Listen(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: others must not open it", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left beside it: %v", left)
	}
	if _, err := Listen(t.Context(), file); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a second one: %v", err)
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after closing: %v", err)
	}

	if err := os.WriteFile(file, nil, 0o600); err != nil { // as a process leaves it that was killed
		t.Fatal(err)
	}
	if l, err = Listen(t.Context(), file); err != nil {
		t.Fatalf("in the place of what was left: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			WriteFailure(w, http.StatusTeapot, errors.New("no coffee"))
		}))
	}()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", file)
	}}}
	response, err := client.Get("http://d/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusTeapot || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s, %v", response.Status, response.Header)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFolderThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), filepath.Join(file, "d.sock")); err == nil || !strings.Contains(err.Error(), "--socket") {
		t.Errorf("%v: want the remedy", err)
	}
}
