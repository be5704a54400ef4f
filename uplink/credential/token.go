package credential

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/uplink"
)

// maxToken bounds a token, bytes: what MQTT's password can hold.
const maxToken = 1<<16 - 1

// Token says where a bearer token such as a JWT comes from: a file that somebody else renews, or a command that prints it.
// Where it is a JWT its times are read, not its signature: that is the broker's part.
type Token struct {
	File    string
	Command []string      // program and arguments, no shell; its standard output is the token
	Timeout time.Duration // of the command. Default 10 s
}

func (t *Token) set() bool { return t.File != "" || len(t.Command) > 0 }

// held is a token and its times.
type held struct {
	text  string
	times tokenTimes
}

// tokenTimes are the registered claims of a JWT that matter here (RFC 7519 §4.1); zero: not given.
type tokenTimes struct{ issued, first, last time.Time }

// readToken reads or makes the token to show now.
func (s *Store) readToken() (string, error) {
	now, _ := s.o.Now()
	remedy := "Renew it: the new file is taken at once"
	what := "the token of " + s.o.Token.File
	var token held
	if s.o.Token.File != "" {
		text, err := readFile(s.o.Token.File)
		if err != nil {
			return "", wrong("token_file", err)
		}
		if token, err = parseToken(text); err != nil {
			return "", wrong("token_file", fmt.Errorf("%s: %w", s.o.Token.File, err))
		}
	} else {
		what, remedy = "the token of "+s.o.Token.Command[0], "Look at what token_command asks"
		s.mu.Lock()
		token = s.token
		s.mu.Unlock()
		if !token.fresh(now) {
			var err error
			if token, err = s.o.Token.run(); err != nil {
				return "", &uplink.CredentialError{Text: "token_command " + s.o.Token.Command[0], Err: err, Transient: true}
			}
		}
	}
	s.mu.Lock()
	s.token = token
	s.mu.Unlock()
	if err := s.check(groupLogin, validity{what: what, remedy: remedy, first: token.times.first, last: token.times.last, warn: token.times.renew()}); err != nil {
		return "", err
	}
	return token.text, nil
}

// fresh says whether a command's token can be shown once more.
func (t *held) fresh(now time.Time) bool {
	return t.text != "" && !t.times.last.IsZero() && now.Before(t.times.renew())
}

// renew is when a token should be replaced: a tenth of its life before its end, but 10 s to an hour.
func (t tokenTimes) renew() time.Time {
	if t.last.IsZero() {
		return time.Time{}
	}
	begin := t.issued
	if begin.IsZero() {
		begin = t.first
	}
	margin := time.Minute
	if !begin.IsZero() {
		margin = t.last.Sub(begin) / 10
	}
	return t.last.Add(-min(max(margin, 10*time.Second), time.Hour))
}

// run runs the command. What it writes on standard error is not kept: it may hold the token.
func (t *Token) run() (held, error) {
	ctx, cancel := context.WithTimeout(context.Background(), t.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.Command[0], t.Command[1:]...)
	var out bytes.Buffer
	cmd.Stdout = &limited{to: &out, left: maxToken + 1}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with its children
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return held{}, fmt.Errorf("did not end within %s", t.Timeout)
		}
		return held{}, err
	}
	return parseToken(out.Bytes())
}

// limited takes what fits and lets the rest go by.
type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n, err := l.to.Write(p[:min(len(p), l.left)])
	l.left -= n
	if err != nil {
		return n, err
	}
	return len(p), nil
}

// parseToken takes the token out of a text. One that is no JWT is shown as it is, and nothing is known of its times.
func parseToken(text []byte) (held, error) {
	token := strings.TrimSpace(string(text))
	switch {
	case token == "":
		return held{}, errors.New("there is no token in it")
	case len(token) > maxToken:
		return held{}, fmt.Errorf("more than %d bytes: MQTT has no room for it", maxToken)
	case strings.ContainsAny(token, " \t\r\n\x00"):
		return held{}, errors.New("a token is one word; this is more")
	}
	return held{text: token, times: readTimes(token)}, nil
}

// readTimes reads a JWT's claims (RFC 7519 §3: three parts of base64url with dots between).
func readTimes(token string) (t tokenTimes) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return t
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return t
	}
	var claims struct {
		Issued *float64 `json:"iat"`
		First  *float64 `json:"nbf"`
		Last   *float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return t
	}
	return tokenTimes{numericDate(claims.Issued), numericDate(claims.First), numericDate(claims.Last)}
}

// numericDate is seconds since 1970 (RFC 7519 §2); what no clock shows is no time.
func numericDate(seconds *float64) time.Time {
	if seconds == nil || math.IsNaN(*seconds) || *seconds <= 0 || *seconds > 1<<38 {
		return time.Time{}
	}
	return time.Unix(int64(*seconds), 0)
}

// Renewal is when the token shown last should be replaced by a new connection; zero: nothing is known of its end.
func (s *Store) Renewal() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token.times.renew()
}

// Refresh says whether there is a token that lives longer than the one shown last: the file has changed, or the command
// gives another one, which is the one to be shown then.
func (s *Store) Refresh() (newer bool, err error) {
	s.mu.Lock()
	shown := s.token.times.last
	s.mu.Unlock()
	if s.o.Token.File != "" {
		text, err := readFile(s.o.Token.File)
		if err != nil {
			return false, err
		}
		token, err := parseToken(text)
		return err == nil && token.times.last.After(shown), err
	}
	token, err := s.o.Token.run()
	if err != nil || !token.times.last.After(shown) {
		return false, err
	}
	s.mu.Lock()
	s.token = token
	s.mu.Unlock()
	return true, nil
}
