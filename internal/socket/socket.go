// Package socket serves a daemon's HTTP API: to the commands of its own host on a unix socket that no other
// user can open, and to others on any listener, with answers in JSON.
//
// Whoever can open the socket's file may do everything that the API does: there is no moment in which its
// mode lets anybody else in. The one socket for everybody, ListenForAll's, is for a server that asks the kernel who comes. Start reading at Listen.
package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// maxPath is the size of sun_path less the zero behind it (unix(7)).
const maxPath = 107

// Listen opens a unix socket for its owner alone, in the place of one that a process left which is gone. Its
// folder is made where it is missing. Where another process answers on it, that is an error. Closing the
// listener removes the file.
func Listen(ctx context.Context, file string) (net.Listener, error) {
	return listen(ctx, file, 0o600, "choose another place with --socket")
}

// ListenForAll is Listen for a socket that every process of the host may open; remedy is what errors end with.
func ListenForAll(ctx context.Context, file, remedy string) (net.Listener, error) {
	return listen(ctx, file, 0o666, remedy)
}

func listen(ctx context.Context, file string, mode os.FileMode, remedy string) (net.Listener, error) {
	if len(file) > maxPath { // it could be made, by a shorter name, and nobody could connect
		return nil, fmt.Errorf("socket %s: its path has %d bytes, more than the %d of a unix socket's address (%s)", file, len(file), maxPath, remedy)
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("socket: %w (%s)", err, remedy)
	}
	dialer := net.Dialer{Timeout: time.Second}
	if conn, err := dialer.DialContext(ctx, "unix", file); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: another process answers on it (%s)", file, remedy)
	}
	// It is made in a folder that is closed to others and moved when its own mode is closed too.
	closed, err := os.MkdirTemp(dir, ".s")
	if err != nil {
		return nil, fmt.Errorf("socket: %w (%s)", err, remedy)
	}
	defer os.RemoveAll(closed)
	made := filepath.Join(closed, "s")
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", made)
	if err != nil {
		return nil, fmt.Errorf("socket: %w (%s)", err, remedy)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it knows the first name only
	if err := errors.Join(os.Chmod(made, mode), os.Rename(made, file)); err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w (%s)", err, remedy), l.Close())
	}
	return &listener{l, file}, nil
}

// A listener removes its file as it closes.
type listener struct {
	net.Listener
	file string
}

func (l *listener) Close() error {
	err := os.Remove(l.file)
	if errors.Is(err, os.ErrNotExist) { // closed before, or somebody tidied up
		err = nil
	}
	return errors.Join(l.Listener.Close(), err)
}

// Serve answers on l until ctx ends, and closes it. Handlers bound the bodies that they read.
func Serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, ConnContext: withPeer}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ListenMetrics opens the TCP address at which a daemon is scraped.
func ListenMetrics(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w (choose another address with --metrics)", err)
	}
	return l, nil
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, v any) { write(w, http.StatusOK, v) }

// WriteFailure answers with a report.Failure that has the error's text.
func WriteFailure(w http.ResponseWriter, status int, err error) {
	write(w, status, report.Failure{Message: err.Error()})
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a caller that has gone needs no answer
}
