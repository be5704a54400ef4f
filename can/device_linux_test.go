package can

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.einride.tech/can/pkg/candevice"
	"golang.org/x/sys/unix"
)

// fakeLink is a controller that notes what is asked of it.
type fakeLink struct {
	info   candevice.Info
	up     bool
	deaf   bool // takes no settings and does not say so
	refuse error
	calls  []string
}

func (l *fakeLink) call(name string) error {
	l.calls = append(l.calls, name)
	if name == "listen" {
		return l.refuse
	}
	return nil
}
func (l *fakeLink) IsUp() (bool, error)           { return l.up, nil }
func (l *fakeLink) Info() (candevice.Info, error) { return l.info, nil }
func (l *fakeLink) SetUp() error                  { l.up = true; return l.call("up") }
func (l *fakeLink) SetDown() error                { l.up = false; return l.call("down") }
func (l *fakeLink) SetBitrate(rate uint32) error {
	if !l.deaf {
		l.info.BitTiming.Bitrate = rate
	}
	return l.call("bitrate")
}
func (l *fakeLink) SetListenOnlyMode(on bool) error {
	l.info.CtrlMode.Flags = 0
	if on {
		l.info.CtrlMode.Flags = unix.CAN_CTRLMODE_LISTENONLY
	}
	return l.call("listen")
}

func TestBringUp(t *testing.T) {
	silent := LinkOptions{Bitrate: 500000, ListenOnly: true}
	with := func(kind string, rate uint32, flags uint32) candevice.Info {
		info := candevice.Info{Type: kind}
		info.BitTiming.Bitrate, info.CtrlMode.Flags = rate, flags
		return info
	}
	for _, test := range []struct {
		name    string
		link    fakeLink
		options LinkOptions
		calls   []string
		fails   string
	}{
		{"down", fakeLink{info: with("can", 0, 0)}, silent, []string{"bitrate", "listen", "up"}, ""},
		{"up as asked", fakeLink{up: true, info: with("can", 500000, unix.CAN_CTRLMODE_LISTENONLY)}, silent, nil, ""},
		{"up with another rate", fakeLink{up: true, info: with("can", 250000, unix.CAN_CTRLMODE_LISTENONLY)}, silent, []string{"down", "bitrate", "listen", "up"}, ""},
		{"up and not silent", fakeLink{up: true, info: with("can", 500000, 0)}, silent, []string{"down", "bitrate", "listen", "up"}, ""},
		{"virtual and down", fakeLink{info: with("vcan", 0, 0)}, silent, []string{"up"}, ""},
		{"virtual and up", fakeLink{up: true, info: with("vcan", 0, 0)}, LinkOptions{}, nil, ""},
		{"no rate", fakeLink{info: with("can", 0, 0)}, LinkOptions{}, nil, "no bit rate"},
		{"a rate that was not taken", fakeLink{deaf: true, info: with("can", 0, 0)}, silent, []string{"bitrate", "listen"}, "not what was asked"},
		{"no listen-only mode", fakeLink{refuse: errors.New("not supported"), info: with("can", 0, 0)}, silent, []string{"bitrate", "listen"}, "listen-only"},
	} {
		l := test.link
		err := bringUp(&l, test.options)
		if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
			t.Errorf("%s: %v", test.name, err)
		}
		if !slices.Equal(l.calls, test.calls) {
			t.Errorf("%s: %v, want %v", test.name, l.calls, test.calls)
		}
	}
}
