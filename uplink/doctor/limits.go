package doctor

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/uplink/profile"
)

// limits says what the broker told of itself by MQTT 5, and what does not go together with the configuration.
func (x *examination) limits(told answer5, err error) {
	var refused connackError
	switch {
	case errors.Is(err, errNotSpoken):
		x.skip(StepLimits, "the broker does not speak MQTT 5, by which it could tell them"+x.assumed())
		return
	case errors.As(err, &refused):
		x.skip(StepLimits, fmt.Sprintf("the broker refuses this vehicle by MQTT 5 (reason 0x%02x), by which it could tell them%s", byte(refused), x.assumed()))
		return
	case err != nil:
		x.skip(StepLimits, fmt.Sprintf("the broker did not tell them (%v)%s", err, x.assumed()))
		return
	}
	o, l := x.trial.Options(), told.Limits
	needed := uint32(o.PayloadBytes + profile.PacketHead)
	if l.Packet > 0 && l.Packet < needed {
		x.fail(StepLimits, fmt.Sprintf("the broker takes packets of %d bytes, and payload_bytes: allows some of %d", l.Packet, needed),
			fmt.Sprintf("set payload_bytes: to %d or less, or raise the broker's limit", max(1<<10, int(l.Packet)-profile.PacketHead)))
		return
	}
	say := []string{"packets of any size"}
	if l.Packet > 0 {
		say[0] = fmt.Sprintf("packets to %d bytes", l.Packet)
	}
	if l.Receive > 0 {
		say = append(say, fmt.Sprintf("%d publishes without PUBACK", l.Receive))
	}
	if l.KeepAlive > 0 {
		say = append(say, "keep-alive "+l.KeepAlive.String())
	}
	if l.Expiry > 0 {
		say = append(say, "sessions for "+(l.Expiry/time.Second*time.Second).String())
	}
	if l.NoShared {
		say = append(say, "no shared subscriptions: one store only")
	}
	text := strings.Join(say, ", ")
	if int(l.Receive) > 0 && int(l.Receive) < o.InFlight {
		text += fmt.Sprintf("; the agent has up to %d in flight: by MQTT 3.1.1 brokers commonly take more than they tell here", o.InFlight)
	}
	if l.NoRetained {
		x.fail(StepLimits, "the broker keeps no retained messages, so that nobody sees the vehicle's last status", "switch them on in the broker")
		return
	}
	x.ok(StepLimits, text)
}

// assumed is what the profile says in the broker's place.
func (x *examination) assumed() string {
	p := x.o.Profile
	if p == nil {
		return ""
	}
	var say []string
	if p.Packet > 0 {
		say = append(say, fmt.Sprintf("packets to %d bytes", p.Packet))
	}
	if p.InFlight > 0 {
		say = append(say, fmt.Sprintf("%d publishes without PUBACK", p.InFlight))
	}
	if p.SessionExpiry > 0 {
		say = append(say, fmt.Sprintf("sessions for %v after the vehicle was last there", p.SessionExpiry))
	}
	if p.NoShared {
		say = append(say, "no shared subscriptions: one store only")
	}
	if len(say) == 0 {
		return ""
	}
	return "; " + p.Title + " commonly has: " + strings.Join(say, ", ")
}
