package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// alarmTopics: the broker does not let this vehicle hear what it is to hear beside receipts.
const alarmTopics = "uplink.topics"

// subscribeMore asks for Options.Topics, behind the barrier of subscribe. A refusal is an alarm, and the data flows all the same.
func (s *session) subscribeMore(ctx context.Context) error {
	if len(s.u.o.Topics) == 0 {
		return nil
	}
	filters := make(map[string]byte, len(s.u.o.Topics))
	for _, rest := range s.u.o.Topics {
		filters[s.u.topic(rest)] = 1
	}
	timeout := time.NewTimer(s.u.o.AckTimeout)
	defer timeout.Stop()
	asked := make(chan *mqtt.SubscribeToken, 1)
	s.u.tasks.Go(func() { asked <- s.client.SubscribeMultiple(filters, nil).(*mqtt.SubscribeToken) })
	var token *mqtt.SubscribeToken
	for answered := false; !answered; {
		var answer <-chan struct{}
		if token != nil {
			answer = token.Done()
		}
		select {
		case token = <-asked:
		case <-answer:
			answered = true
		case <-s.lost:
			return s.lostWhy
		case <-ctx.Done():
			return errStopped
		case <-timeout.C:
			return errors.New("no SUBACK in time")
		}
	}
	refused := ""
	for topic := range filters {
		if granted, ok := token.Result()[topic]; !ok || granted > 2 { // 0x80: refused (MQTT 3.1.1 §3.9.3)
			refused = topic
		}
	}
	if refused == "" {
		s.u.o.Alarms.Clear(alarmTopics)
		return nil
	}
	s.u.o.Alarms.Raise(alarmTopics, fmt.Sprintf("the broker refuses the subscription to %s: allow it in the broker's ACL", refused))
	return nil
}
