package can

// stamper turns the kernel's CLOCK_REALTIME stamps into CLOCK_BOOTTIME. The realtime clock is set and steps; what can be
// trusted of a stamp is its age at the moment of reading, and of that only what is possible: a frame is no younger than
// now, no older than the last time the socket was found empty, and never before the frame that came ahead of it.
type stamper struct {
	emptied   int64  // BOOTTIME ns at which nothing was left to read
	last      int64  // BOOTTIME ns of the last frame
	unstamped uint64 // frames without a stamp; they get the time of reading
	clamped   uint64 // frames whose age was not possible
}

// deliverySlack is how long a frame may be under way inside the kernel between its stamp and the socket's queue, ns. The
// stamp is older than the moment at which the socket was found empty by at most this.
const deliverySlack = 100e6

// boot is the CLOCK_BOOTTIME of a frame that was stamped at stamp (Unix ns, 0: not stamped) and read when the clocks said
// nowWall (Unix ns) and nowBoot.
func (s *stamper) boot(stamp, nowWall, nowBoot int64) int64 {
	t := nowBoot
	if stamp == 0 {
		s.unstamped++
	} else {
		t = nowBoot - (nowWall - stamp)
		if t > nowBoot || t < s.emptied-deliverySlack {
			s.clamped++
		}
		t = min(max(t, s.emptied-deliverySlack), nowBoot)
	}
	t = max(t, s.last)
	s.last = t
	return t
}
