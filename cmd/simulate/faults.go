package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/test/drive"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// parseFaults reads what --fault gives: AT, and a fault.
func parseFaults(texts []string) (list []drive.Fault, err error) {
	for _, text := range texts {
		at, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		from, err := time.ParseDuration(at)
		if err != nil || from < 0 {
			return nil, fmt.Errorf("--fault %q: begin with when, such as 20s", text)
		}
		f, err := drive.ParseFault(rest)
		if err != nil {
			return nil, fmt.Errorf("--fault: %w", err)
		}
		f.From = from
		list = append(list, f)
	}
	return list, nil
}

// openControl reads faults, a line each, until ctx ends or stop is called. What cannot be read as one is said and passed over.
func openControl(ctx context.Context, path string, in io.Reader, errs io.Writer) (faults <-chan drive.Fault, stop func(), err error) {
	if path == "" {
		return nil, func() {}, nil
	}
	stop = func() {}
	if path != "-" {
		flags := os.O_RDONLY
		if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
			flags = os.O_RDWR | unix.O_NONBLOCK // so that it has an end neither when a writer goes nor before one comes
		}
		f, err := os.OpenFile(path, flags, 0)
		if err != nil {
			return nil, nil, err
		}
		in, stop = f, func() { _ = f.Close() }
	}
	list := make(chan drive.Fault)
	go func() { // ends with its reader; nobody waits for standard input
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			text := strings.TrimSpace(lines.Text())
			if text == "" || strings.HasPrefix(text, "#") {
				continue
			}
			f, err := drive.ParseFault(text)
			if err != nil {
				fmt.Fprintln(errs, "--control:", err)
				continue
			}
			select {
			case list <- f:
			case <-ctx.Done():
				return
			}
		}
	}()
	return list, stop, nil
}

// link is a TCP link that a drive cuts; nil is none.
type link struct{ proxy *uplinktest.Proxy }

// openLink listens as LISTEN=TARGET says.
func openLink(text string) (*link, error) {
	if text == "" {
		return nil, nil
	}
	listen, target, found := strings.Cut(text, "=")
	host, _, err := net.SplitHostPort(listen)
	if !found || err != nil {
		return nil, fmt.Errorf("%q: want LISTEN=TARGET, such as 127.0.0.1:1884=127.0.0.1:1883", text)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, errors.New("it listens on a loopback address only")
	}
	proxy, err := uplinktest.NewProxyAt(listen, target)
	if err != nil {
		return nil, err
	}
	return &link{proxy}, nil
}

// dead has nothing pass, either way, or all of it again.
func (l *link) dead(dead bool) {
	switch {
	case l == nil:
	case dead:
		l.proxy.Freeze()
	default:
		l.proxy.Thaw()
	}
}

// Close ends the link.
func (l *link) Close() {
	if l != nil {
		l.proxy.Close()
	}
}
