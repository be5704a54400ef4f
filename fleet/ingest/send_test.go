package ingest

import (
	"context"
	"errors"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Receipts that wait for a session are given back when it ends, and it is the last one: the slot goes on at another
// process, and whoever waited for it here would wait for ever.
func TestSendGivesBackWhenTheSessionEnds(t *testing.T) {
	address, _ := startBroker(t)
	s := &script{fail: 1, hold: make(chan struct{}), entered: make(chan struct{}, 1)}
	r, err := NewReceiver(ReceiverOptions{Broker: "tcp://" + address, ClientID: "fleet", BackoffBase: time.Millisecond}, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	eventually(t, "subscribed", r.Connected)
	car := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + address).SetClientID("car").SetProtocolVersion(4))
	if token := car.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	defer car.Disconnect(10)
	car.Publish("wb1/acme/car-1/up/telemetry", 1, false, "a payload")
	<-s.entered // the session is at work, and takes no receipts meanwhile

	sent := make(chan error, 1)
	go func() {
		sent <- r.Send(context.Background(), []Reply{{Topic: "wb1/acme/car-1/down/receipt", Receipt: &telemetrypb.Receipt{Number: 1}}})
	}()
	select {
	case err := <-sent:
		t.Fatalf("Send returned while the session was at work: %v", err)
	case <-time.After(50 * time.Millisecond): // it waits by now, as a rule; when not, it is refused as well
	}
	cancel()
	close(s.hold) // the store fails, and the session ends
	if err := <-done; err != nil {
		t.Error(err)
	}
	select {
	case err := <-sent:
		if !errors.Is(err, errNotConnected) {
			t.Errorf("Send: %v, want %v", err, errNotConnected)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Send waits for a session that never comes")
	}
}
