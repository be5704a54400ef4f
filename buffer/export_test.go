package buffer

import "golang.org/x/sys/unix"

// Abandon ends the queue as a kill would: nothing more is written, the locks go.
func (q *Queue) Abandon() {
	q.commitMu.Lock()
	defer q.commitMu.Unlock()
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	for l, t := range q.tails {
		if t != nil {
			t.close(nil)
			q.tails[l] = nil
		}
	}
	if q.lockFile != nil {
		unix.Flock(int(q.lockFile.Fd()), unix.LOCK_UN)
		q.lockFile.Close()
	}
}
