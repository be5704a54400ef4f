package conditions

import (
	"errors"
	"io"
	"os"
)

// errTooLong: a file holds more than it may.
var errTooLong = errors.New("too long")

// readSmall reads a file of our own of at most limit bytes.
func readSmall(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

func readAll(f io.Reader, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(data) > limit {
		return nil, errTooLong
	}
	return data, err
}
