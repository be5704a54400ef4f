package uplink

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// afterConnect is when the status is first refreshed. A broker that sends the will of the connection which this one
// replaced may do so after our first status, and would leave the vehicle marked offline.
const afterConnect = 5 * time.Second

// statusDue says whether a status is to be published now; the caller then does.
func (u *Uplink) statusDue(now time.Time) bool {
	at := int64(now.Sub(u.born)) + 1
	last := u.statusAt.Load()
	age := time.Duration(at - last)
	u.mu.Lock()
	early := u.since
	u.mu.Unlock()
	switch {
	case last == 0, age >= u.o.StatusEvery:
	case u.statusWanted.Load() && age >= min(time.Second, u.o.StatusEvery):
	case age >= afterConnect && u.born.Add(time.Duration(last)).Sub(early) < afterConnect:
	default:
		return false
	}
	u.statusWanted.Store(false)
	u.statusAt.Store(at)
	return true
}

// status is the message as it is published; online false: the will and the farewell.
func (u *Uplink) status(online bool, reason string) []byte {
	var s *telemetrypb.Status
	if u.o.Status != nil {
		s = u.o.Status()
	}
	if s == nil {
		s = &telemetrypb.Status{}
	}
	s.Online, s.Reason = online, reason
	s.Tenant, s.Device = u.o.Tenant, u.o.Device
	s.Epoch = u.queue.Epoch()
	if online {
		u.sayGeneration(s)
	}
	if s.Alarms == nil {
		for _, a := range u.o.Alarms.Standing() {
			s.Alarms = append(s.Alarms, &telemetrypb.Alarm{Name: a.Name, Text: a.Text, SinceBootNs: a.Since, Times: a.Times})
		}
	}
	b, err := proto.Marshal(s)
	if err != nil { // text that is not UTF-8: say the rest
		u.o.Log.Error("status cannot be written in full", "error", err)
		b, err = proto.Marshal(&telemetrypb.Status{Online: online, Tenant: u.o.Tenant, Device: u.o.Device, Epoch: s.Epoch})
		if err != nil {
			u.o.Log.Error("status cannot be written", "error", err)
		}
	}
	return b
}

// credentials are asked for at each dial; the URL's serve where none are given.
func (u *Uplink) credentials() (user, password string, err error) {
	user, password = u.end.user, u.end.password
	if u.o.User != nil {
		if user, err = u.o.User(); err != nil {
			return "", "", fmt.Errorf("user for broker %s: %w", u.end, err)
		}
	}
	if u.o.Password != nil {
		if password, err = u.o.Password(); err != nil {
			return "", "", fmt.Errorf("password for broker %s: %w", u.end, err)
		}
	}
	return user, password, nil
}
