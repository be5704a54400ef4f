// Package installtest is a board with two systems and a boot loader, and an install.Installer before it that behaves as
// RAUC does with U-Boot: attempts are counted down at each start, and a system without any is not started.
package installtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/waybill-telematics/waybill/firmware/install"
)

// Attempts is how often the boot loader starts a system that nobody marks good.
const Attempts = 3

// Board has two systems, 0 and 1, of which one runs. Its fields are for tests that look while nothing is under way.
type Board struct {
	AtOnce bool            // Install activates too, RAUC's default
	Deaf   error           // what each call answers; nil: it works
	Refuse error           // what Install answers
	Cut    func(at string) // called before and after each change; it may panic, as the power goes

	mu      sync.Mutex
	Image   [2][]byte
	Primary int
	Left    [2]int
	Booted  int
	Boots   int
	Calls   []string
}

// New is a board on which system 0 runs an image.
func New(image []byte) *Board {
	return &Board{Image: [2][]byte{image, nil}, Left: [2]int{Attempts, 0}}
}

// Boot is a start of the machine: its boot loader chooses. It says which boot this is.
func (b *Board) Boot() (id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := b.Primary
	if b.Left[first] == 0 {
		first = 1 - first
	}
	if b.Left[first] == 0 { // U-Boot's script sets all anew and begins again
		b.Left = [2]int{Attempts, Attempts}
		first = b.Primary
	}
	b.Left[first]--
	b.Booted = first
	b.Boots++
	return fmt.Sprintf("boot-%05d", b.Boots)
}

// Runs is the image that runs.
func (b *Board) Runs() []byte { return b.Image[b.Booted] }

func name(system int) string { return fmt.Sprintf("rootfs.%d", system) }

// change does something that the power may go before or after.
func (b *Board) change(what string, f func()) error {
	if b.Deaf != nil {
		return b.Deaf
	}
	b.Point("before " + what)
	b.mu.Lock()
	b.Calls = append(b.Calls, what)
	f()
	b.mu.Unlock()
	b.Point("after " + what)
	return nil
}

// Point is a moment at which the power may go.
func (b *Board) Point(at string) {
	if b.Cut != nil {
		b.Cut(at)
	}
}

// Name is "board".
func (b *Board) Name() string { return "board" }

// Install writes the other system, in two halves.
func (b *Board) Install(_ context.Context, image *os.File, progress install.Progress) error {
	data, err := io.ReadAll(image)
	if err != nil {
		return err
	}
	other := 1 - b.Booted
	if err := b.change("install", func() { b.Image[other], b.Left[other] = data[:len(data)/2], 0 }); err != nil {
		return err
	}
	if b.Refuse != nil {
		return b.Refuse
	}
	progress(50, "half of it")
	err = b.change("installed", func() { b.Image[other] = data })
	if err == nil && b.AtOnce {
		err = b.Activate(context.Background())
	}
	return err
}

// Activate has the next start use the system that does not run.
func (b *Board) Activate(context.Context) error {
	return b.change("activate", func() { b.Primary = 1 - b.Booted; b.Left[b.Primary] = Attempts })
}

// Rearm gives the one that runs its attempts anew.
func (b *Board) Rearm(context.Context) error {
	return b.change("rearm", func() { b.Primary = b.Booted; b.Left[b.Primary] = Attempts })
}

// MarkGood gives the one that runs its attempts anew.
func (b *Board) MarkGood(context.Context) error {
	return b.change("good", func() { b.Left[b.Booted] = Attempts })
}

// MarkBad takes them.
func (b *Board) MarkBad(context.Context) error {
	return b.change("bad", func() { b.Left[b.Booted] = 0 })
}

// Status says what runs.
func (b *Board) Status(context.Context) (install.Status, error) {
	if b.Deaf != nil {
		return install.Status{}, b.Deaf
	}
	return install.Status{Booted: name(b.Booted), Primary: name(b.Primary)}, nil
}

var _ install.Installer = (*Board)(nil)
