package ingest

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// A broker may send all that a resumed session has waiting before it answers the subscription, more than waits here at
// once: it is taken and acknowledged all the same, and the answer is heard behind it.
func TestWhatWaitedComesAheadOfTheSubscription(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const waiting = waitingMessages + 500
	served := make(chan error, 1)
	release := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		served <- resumeAndFlood(c, waiting)
		<-release // a connection that is lost would begin another session
		_ = c.Close()
	}()

	taken := &script{hold: make(chan struct{}), entered: make(chan struct{}, 2*waiting)}
	close(taken.hold)
	r, err := NewReceiver(ReceiverOptions{Broker: "tcp://" + l.Addr().String(), ClientID: "fleet"}, taken)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	eventually(t, "a connected receiver", r.Connected)
	if err := <-served; err != nil {
		t.Error(err)
	}
	close(release)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(taken.taken) != waiting {
		t.Errorf("%d messages were taken, %d waited", len(taken.taken), waiting)
	}
}

// resumeAndFlood is a broker for one connection: it resumes a session, answers the subscription only behind so many
// messages, and waits until each of them is acknowledged.
func resumeAndFlood(c net.Conn, waiting int) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	acknowledged := 0
	for acknowledged < waiting {
		packet, err := packets.ReadPacket(c)
		if err != nil {
			return err
		}
		switch p := packet.(type) {
		case *packets.ConnectPacket:
			answer := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
			answer.SessionPresent = true
			err = answer.Write(c)
		case *packets.SubscribePacket:
			go flood(c, waiting, p.MessageID)
		case *packets.PubackPacket:
			acknowledged++
		case *packets.PublishPacket: // a receipt
			answer := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			answer.MessageID = p.MessageID
			err = answer.Write(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func flood(c net.Conn, waiting int, subscription uint16) {
	for i := range waiting {
		m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		m.TopicName, m.Qos, m.MessageID, m.Payload = "wb1/acme/car-1/up/event", 1, uint16(i+1), []byte{byte(i)}
		if m.Write(c) != nil {
			return // the test ends
		}
	}
	answer := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	answer.MessageID, answer.ReturnCodes = subscription, []byte{1}
	_ = answer.Write(c)
}
