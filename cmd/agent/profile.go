package main

import (
	"crypto/tls"
	"fmt"
	"strings"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink/profile"
)

// usualInFlight is the uplink's default for publishes without PUBACK.
const usualInFlight = 10

// profile holds the uplink to what the named maker's broker takes: what the file says is refused where that cannot work,
// defaults are lowered.
func (c *checker) profile(s *settings) {
	raw, u := &c.d.config.Uplink, &s.Uplink
	if raw.Profile == "" || raw.Profile == "none" {
		return
	}
	p := profile.Find(raw.Profile)
	if p == nil {
		text := fmt.Sprintf("want %s or none, got %q", strings.Join(profile.Names(), ", "), raw.Profile)
		if near := nearest(raw.Profile, profile.Names()); near != "" {
			text += fmt.Sprintf("; did you mean %q?", near)
		}
		c.fail(text, "uplink", "broker_profile")
		return
	}
	u.Profile = p
	use := profile.Use{Secure: secure(u.Broker), ClientID: u.ClientID}
	if raw.KeepAlive != "" {
		use.KeepAlive = u.KeepAlive
	}
	if raw.PayloadBytes != "" {
		use.Payload = u.PayloadBytes
	}
	for _, rest := range []string{telemetrypb.TopicLane(telemetrypb.Lane_LANE_TELEMETRY), telemetrypb.TopicStatus, telemetrypb.TopicResult,
		telemetrypb.TopicReceipt, telemetrypb.TopicCommand, telemetrypb.TopicCampaign, telemetrypb.TopicRequest, telemetrypb.TopicChunk} {
		use.Topics = append(use.Topics, telemetrypb.Topic(s.Tenant, s.Device, rest))
	}
	told := map[string]bool{}
	for _, f := range p.Check(use) {
		path := []any{"uplink", f.Key}
		if f.Key == profile.KeyTopic {
			path = []any{"device", "id"}
		}
		if !told[f.Key] { // one topic that is too long is enough
			c.fail(f.Text+" (broker_profile: "+p.Name+")", path...)
		}
		told[f.Key] = true
	}
	u.PayloadBytes, u.InFlight = p.Bound(u.PayloadBytes, usualInFlight)
}

// offering adds what TLS has to offer on the broker's port.
func (u *uplinkSettings) offering(config func() (*tls.Config, error)) func() (*tls.Config, error) {
	if u.Profile == nil {
		return config
	}
	offer := u.Profile.ALPN(u.Broker.Scheme, u.Broker.Port())
	if offer == nil {
		return config
	}
	return func() (*tls.Config, error) {
		c, err := config()
		if err == nil {
			c.NextProtos = offer
		}
		return c, err
	}
}
