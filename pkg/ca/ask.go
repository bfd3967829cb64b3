package ca

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/term"
)

// AskAtTerminal is the name of a passphrase file that means: ask whoever sits at the terminal.
const AskAtTerminal = "-"

// PassphraseFrom asks for a passphrase once, when it is needed: it reads a file, or asks at the terminal where the file is
// AskAtTerminal; twice where it is a new one, which nobody else knows. An empty file name is no passphrase: nil.
func PassphraseFrom(file string, isNew bool) Passphrase {
	switch file {
	case "":
		return nil
	case AskAtTerminal:
		return sync.OnceValues(func() ([]byte, error) { return askAtTerminal(isNew) })
	}
	return sync.OnceValues(func() ([]byte, error) { return readPassphrase(file) })
}

// readPassphrase reads a file that nobody else may read. A credential of systemd's, and a pipe, are what they are.
func readPassphrase(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	credentials := os.Getenv("CREDENTIALS_DIRECTORY")
	given := credentials != "" && strings.HasPrefix(filepath.Clean(file), filepath.Clean(credentials)+"/")
	if info.Mode().IsRegular() && !given {
		if err := checkPrivate(file); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPassphrase+2)) // a line feed is none of it
}

func askAtTerminal(isNew bool) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("nobody sits at a terminal (name a file that holds it instead): %w", err)
	}
	defer tty.Close()
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(tty, prompt)
		defer fmt.Fprintln(tty)
		return term.ReadPassword(int(tty.Fd()))
	}
	first, err := ask("Passphrase: ")
	if err != nil || !isNew {
		return first, err
	}
	again, err := ask("Once more: ")
	if err == nil && !bytes.Equal(first, again) {
		err = errors.New("the two are not the same")
	}
	return first, err
}
