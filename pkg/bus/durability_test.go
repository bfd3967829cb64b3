package bus_test

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

const (
	durableDir = "SENNIT_TEST_DURABLE_DIR" // set: this process is the server that is killed
	writers    = 4
)

// What is acknowledged as stored is there after kill -9 at any point. A server and its writers run in a
// process of their own, which is killed again and again; each acknowledged record is looked for in the next.
func TestAcknowledgedRecordsSurviveKill(t *testing.T) {
	if dir := os.Getenv(durableDir); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	acked := map[string]uint64{} // by data: the sequence
	for round := range 10 {
		command := exec.Command(os.Args[0], "-test.run=^TestAcknowledgedRecordsSurviveKill$", "-test.count=1")
		command.Env = append(os.Environ(), durableDir+"="+dir)
		out, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		enough := 1 + random.IntN(150)
		lines, got, checked := bufio.NewScanner(out), 0, -1
		var said []string
		for lines.Scan() {
			word, rest, _ := strings.Cut(lines.Text(), " ")
			switch word {
			case "has": // "has <sequence> <data>": what the server found when it started
				sequence, data, _ := strings.Cut(rest, " ")
				if n, known := acked[data]; known && strconv.FormatUint(n, 10) == sequence {
					delete(acked, data)
				}
			case "found":
				if checked = len(acked); checked > 0 {
					t.Errorf("round %d: %d acknowledged records are gone, among them %s", round, checked, slices.Sorted(maps.Keys(acked))[0])
				}
				clear(acked)
			case "acked":
				sequence, data, _ := strings.Cut(rest, " ")
				n, err := strconv.ParseUint(sequence, 10, 64)
				if err != nil {
					t.Fatalf("read %q: %v", lines.Text(), err)
				}
				acked[data] = n
				if got++; got == enough {
					// What it acknowledges until the signal arrives still comes through the pipe.
					if err := command.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			default:
				said = append(said, lines.Text())
			}
		}
		command.Wait()
		if checked < 0 || got < enough {
			t.Fatalf("round %d: the server ended by itself:\n%s", round, strings.Join(said, "\n"))
		}
	}
}

// writeUntilKilled tells what is stored, and then stores more, telling each acknowledgement.
func writeUntilKilled(t *testing.T, dir string) {
	accounts := &bus.Accounts{}
	keys := filepath.Join(dir, "keys")
	if data, err := os.ReadFile(keys); err == nil {
		if err := accounts.UnmarshalBinary(data); err != nil {
			t.Fatal(err)
		}
	} else {
		if accounts, err = bus.NewAccounts(); err != nil {
			t.Fatal(err)
		}
		data, err := accounts.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(keys, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := bustest.StartIn(t, filepath.Join(dir, "state"), accounts)
	records := b.Controller.Records(bus.StreamResource)
	last, err := records.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := &lines{}
	if last > 0 {
		for _, entry := range follow(t, records, 1, last) {
			out.say("has %d %s", entry.Sequence, entry.Data)
		}
	}
	out.say("found")
	var group sync.WaitGroup
	for writer := range writers {
		group.Go(func() {
			subject := fmt.Sprintf("sennit.resource.writer.%d", writer)
			var expect uint64
			if entry, err := records.Get(t.Context(), subject); err == nil {
				expect = entry.Sequence
			}
			for i := 0; ; i++ {
				data := fmt.Sprintf("%d/%d/%d", os.Getpid(), writer, i)
				sequence, err := records.Append(context.Background(), subject, []byte(data), expect)
				if err != nil {
					t.Error(err)
					return
				}
				out.say("acked %d %s", sequence, data)
				expect = sequence
			}
		})
	}
	group.Wait()
}

// lines writes whole lines to standard output, unbuffered.
type lines struct{ mu sync.Mutex }

func (l *lines) say(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Printf(format+"\n", v...)
}
