package conditions

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// SocketAsker asks the head unit over a Unix stream socket: one line of JSON with the Question there, one line back, {"consent": true,
// false or "later"}; "campaign" may stand beside it and then has to be the same. One question a connection.
type SocketAsker struct {
	Path    string
	UIDs    []int         // whose program may answer (SO_PEERCRED)
	Connect time.Duration // how long the head unit may take to take the question [5 s]
	Answer  time.Duration // how long a person may think [2 min]
}

// Ask asks once. A head unit that is not there or does not answer is an error.
func (s *SocketAsker) Ask(ctx context.Context, q Question) (Answer, error) {
	line, err := json.Marshal(q)
	if err != nil {
		return "", err
	}
	connect, think := s.Connect, s.Answer
	if connect <= 0 {
		connect = 5 * time.Second
	}
	if think <= 0 {
		think = 2 * time.Minute
	}
	dialer := net.Dialer{Timeout: connect}
	conn, err := dialer.DialContext(ctx, "unix", s.Path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends what waits
	defer stop()
	if err := s.checkPeer(conn); err != nil {
		return "", err
	}
	if err := conn.SetDeadline(time.Now().Add(connect)); err != nil {
		return "", err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return "", err
	}
	if err := conn.SetDeadline(time.Now().Add(think)); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil { // it ended before the deadline was set anew
		return "", err
	}
	scanner := bufio.NewScanner(conn)
	scanner.Buffer(make([]byte, 0, 512), maxAnswer)
	if !scanner.Scan() {
		err := scanner.Err()
		if err == nil {
			err = errors.New("it hung up without an answer")
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", err
	}
	return parseAnswer(scanner.Bytes(), q.Campaign, nil)
}

// checkPeer holds that who listens is the head unit: anybody may make a socket in a folder that he may write to.
func (s *SocketAsker) checkPeer(conn net.Conn) error {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if ctlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctlErr != nil {
		return ctlErr
	}
	if err != nil {
		return err
	}
	if !slices.Contains(s.UIDs, int(peer.Uid)) {
		return fmt.Errorf("%s: uid %d answers there, who may not consent; allowed: %d", s.Path, peer.Uid, s.UIDs)
	}
	return nil
}
