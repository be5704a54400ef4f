package can

import (
	"errors"
	"fmt"

	"go.einride.tech/can/pkg/candevice"
	"golang.org/x/sys/unix"
)

// LinkOptions say how an interface is brought up.
type LinkOptions struct {
	Bitrate    uint32 // bit/s of the arbitration phase
	ListenOnly bool   // the controller does not even acknowledge frames
}

// link is what BringUp needs of an interface; candevice has it.
type link interface {
	IsUp() (bool, error)
	SetUp() error
	SetDown() error
	Info() (candevice.Info, error)
	SetBitrate(uint32) error
	SetListenOnlyMode(bool) error
}

// BringUp sets an interface's bit rate and listen-only mode and sets it up. One that is up with these settings already is
// left alone, so that other readers of the bus lose nothing. It needs CAP_NET_ADMIN. Virtual interfaces have no bit rate:
// they are only set up.
func BringUp(name string, o LinkOptions) error {
	device, err := candevice.New(name)
	if err != nil {
		return fmt.Errorf("CAN interface %s: %w", name, err)
	}
	if err := bringUp(device, o); err != nil {
		return fmt.Errorf("CAN interface %s: %w", name, err)
	}
	return nil
}

func bringUp(l link, o LinkOptions) error {
	up, err := l.IsUp()
	if err != nil {
		return err
	}
	info, err := l.Info()
	if err != nil {
		return err
	}
	virtual := info.Type == candevice.VcanLinkType || info.Type == candevice.VxcanLinkType
	if virtual {
		if up {
			return nil
		}
		return l.SetUp()
	}
	if o.Bitrate == 0 {
		return errors.New("no bit rate given; name the bus's own, for instance 500000")
	}
	if up && settled(info, o) {
		return nil
	}
	if up {
		if err := l.SetDown(); err != nil {
			return err
		}
	}
	if err := l.SetBitrate(o.Bitrate); err != nil {
		return fmt.Errorf("bit rate %d: %w", o.Bitrate, err)
	}
	if err := l.SetListenOnlyMode(o.ListenOnly); err != nil {
		return fmt.Errorf("listen-only mode %t: %w", o.ListenOnly, err)
	}
	// What a controller did not take must not be found out on the bus.
	if info, err = l.Info(); err != nil {
		return err
	}
	if !settled(info, o) {
		return fmt.Errorf("it took %d bit/s and listen-only mode %t, not what was asked for", info.BitTiming.Bitrate, listenOnly(info))
	}
	return l.SetUp()
}

func settled(info candevice.Info, o LinkOptions) bool {
	return info.BitTiming.Bitrate == o.Bitrate && listenOnly(info) == o.ListenOnly
}

func listenOnly(info candevice.Info) bool {
	return info.CtrlMode.Flags&unix.CAN_CTRLMODE_LISTENONLY != 0
}
