package upstreamca

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 64 << 10

// ReadSecret reads a file that its owner alone may read, without white space around. What others can read is no secret,
// and refused.
func ReadSecret(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so that others can read it: run `chmod 600 %s`, and replace what is in it", path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	if err != nil {
		return nil, err
	}
	if data = bytes.TrimSpace(data); len(data) == 0 || len(data) > maxSecret {
		return nil, fmt.Errorf("%s has %d bytes: want 1 to %d", path, len(data), maxSecret)
	}
	return data, nil
}
