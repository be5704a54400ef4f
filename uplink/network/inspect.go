package network

// LinkState is a link and whether it is up.
type LinkState struct {
	Link
	Down string // why it is not up; empty: it is
}

// States asks the kernel which links are up; the best first. Without links it is empty.
func (l *Links) States() []LinkState {
	l.look()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []LinkState
	for _, s := range l.links {
		out = append(out, LinkState{s.Link, s.why})
	}
	return out
}
