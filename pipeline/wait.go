package pipeline

import (
	"context"
	"errors"
)

// waiter is somebody who waits until what came before is on disk.
type waiter struct {
	seal bool
	done chan error // capacity 1
}

var errStopped = errors.New("the pipeline has stopped")

// Commit commits at once, and returns when all that was emitted, raised and offered before the call is on disk. With seal the open
// batches are sealed as well, those samples that wait for their interval with them, so that everything can be sent: before a car that is
// parked goes quiet. While the disk fails the answer is its error. It may be called from any goroutine.
func (p *Pipeline) Commit(ctx context.Context, seal bool) error {
	w := waiter{seal: seal, done: make(chan error, 1)}
	p.mu.Lock()
	if p.stopped.Load() {
		p.mu.Unlock()
		return errStopped
	}
	p.waiters = append(p.waiters, w)
	p.mu.Unlock()
	p.wakeUp()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// admit lets the next commit answer those who wait, and says whether open batches are to be sealed for them. They wait on while
// the disk fails, and while not all is taken of what was offered before them.
func (p *Pipeline) admit() (seal bool) {
	p.mu.Lock()
	waiting := len(p.waiters)
	p.mu.Unlock()
	if waiting == 0 || p.failing {
		return false
	}
	deepest := 0 // chunks that can have been offered before
	for _, source := range p.sources {
		deepest = max(deepest, cap(source.full))
	}
	for turns := deepest/chunksATurn + 1; turns > 0 && p.left(); turns-- {
		if p.memory >= p.o.CommitBytes {
			return false
		}
		p.take()
	}
	// Whoever came meanwhile may have offered something after the last look: the next commit is his.
	p.mu.Lock()
	p.commit.waiters = append(p.commit.waiters, p.waiters[:waiting]...)
	p.waiters = append(p.waiters[:0], p.waiters[waiting:]...)
	p.mu.Unlock()
	for _, w := range p.commit.waiters {
		seal = seal || w.seal
	}
	if seal {
		p.from = sourceAgent
		for _, id := range p.delayed {
			if held, ok := p.states[id].flush(); ok {
				p.keepSample(p.states[id].lane, &held)
			}
		}
		p.tellRefused()
	}
	return seal
}

// admitAll is for a commit that failed: all who wait are told.
func (p *Pipeline) admitAll() {
	p.mu.Lock()
	p.commit.waiters = append(p.commit.waiters, p.waiters...)
	p.waiters = p.waiters[:0]
	p.mu.Unlock()
}

// answer tells those who wait how the commit went.
func (c *commit) answer(err error) {
	for _, w := range c.waiters {
		w.done <- err
	}
	c.waiters = c.waiters[:0]
}

// dismiss ends Run: nobody is waited for any more.
func (p *Pipeline) dismiss() {
	p.mu.Lock()
	p.stopped.Store(true)
	p.commit.waiters = append(p.commit.waiters, p.waiters...)
	p.waiters = nil
	p.mu.Unlock()
	p.commit.answer(errStopped)
}
