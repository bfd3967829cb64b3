package bus

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// storedStreams returns the folders of streams that hold messages, by stream. A folder without any is what a
// process leaves that is killed while it makes a stream.
func storedStreams(stateDir string) (map[string]string, error) {
	folders, err := filepath.Glob(filepath.Join(stateDir, "jetstream", "*", "streams", "*"))
	if err != nil {
		return nil, err
	}
	held := map[string]string{}
	for _, folder := range folders {
		blocks, err := filepath.Glob(filepath.Join(folder, "msgs", "*.blk"))
		if err != nil {
			return nil, err
		}
		for _, block := range blocks {
			if info, err := os.Stat(block); err == nil && info.Size() > 0 {
				held[filepath.Base(folder)] = folder
			}
		}
	}
	return held, nil
}

// checkRecovered refuses a server that left out streams which are on disk: it warns, goes on without what it
// cannot read, and a controller that found an empty stream would tell all nodes that everything is gone.
func (s *Server) checkRecovered(held map[string]string) error {
	info, err := s.nats.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return fmt.Errorf("list the streams: %w", err)
	}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			delete(held, stream.Name)
		}
	}
	if len(held) == 0 {
		return nil
	}
	var folders []string
	for _, folder := range held {
		folders = append(folders, folder)
	}
	slices.Sort(folders)
	return fmt.Errorf("what is stored in %s is damaged and cannot be read (restore the state directory from a backup; the log above says what is wrong)", strings.Join(folders, ", "))
}
