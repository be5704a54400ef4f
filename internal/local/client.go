package local

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// Errors of a Client, wrapped with more words.
var (
	ErrNotRunning = errors.New("nobody listens there: the agent does not run, or listens elsewhere (metrics.listen)")
	ErrOff        = errors.New("the agent has its local page switched off (metrics.page)")
	ErrToken      = errors.New("the agent asks for a token, and it is not this one")
)

const (
	clientTimeout = 10 * time.Second // of one answer, and of silence in a stream that speaks every second
	maxEvent      = 16 << 20         // bytes of one event: some ten thousand signals with their histories
)

// Client asks an agent. It is safe for use from several goroutines.
type Client struct {
	http  *http.Client
	base  string
	token string
}

// NewClient makes a Client for an address as metrics.listen has it: host:port, or unix:PATH. An empty token is none.
func NewClient(address, token string) *Client {
	dialer := &net.Dialer{Timeout: clientTimeout}
	c := &Client{token: token, base: "http://" + address}
	network := "tcp"
	target := address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, target, c.base = "unix", path, "http://localhost"
	}
	c.http = &http.Client{Transport: &http.Transport{ // no proxy: it is this machine, or beside it
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, target)
		},
	}}
	return c
}

// State asks for how the agent is.
func (c *Client) State(ctx context.Context) (s State, err error) {
	return s, c.get(ctx, PathState, &s)
}

// Signals asks for the latest values. It takes a second if nobody has asked for a while.
func (c *Client) Signals(ctx context.Context) (s Signals, err error) {
	return s, c.get(ctx, PathSignals, &s)
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	response, err := c.ask(ctx, path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(into)
}

func (c *Client) ask(ctx context.Context, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusUnauthorized:
		return nil, ErrToken
	case http.StatusNotFound:
		return nil, ErrOff
	}
	words, _ := io.ReadAll(io.LimitReader(response.Body, 500))
	return nil, fmt.Errorf("the agent answers %s: %s", response.Status, bytes.TrimSpace(words))
}

// Follow calls f after each event until ctx ends or the stream does, which is always an error: the agent stopped, say. The
// View is f's only until it returns. Who wants to go on calls Follow again.
func (c *Client) Follow(ctx context.Context, f func(*View) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(clientTimeout, func() { cancel(fmt.Errorf("the agent has said nothing for %v", clientTimeout)) })
	defer silence.Stop()
	fail := func(err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	response, err := c.ask(ctx, PathEvents)
	if err != nil {
		return fail(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxEvent)
	var view View
	event := ""
	for lines.Scan() {
		silence.Reset(clientTimeout)
		name, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch string(name) {
		case "event":
			event = string(value)
		case "data":
			if err := view.Apply(event, value); err != nil {
				return err
			}
			if err := f(&view); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fail(err)
	}
	return fail(io.ErrUnexpectedEOF)
}
