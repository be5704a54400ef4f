package telemetrypb

import (
	"strings"
	"testing"
)

func TestTopic(t *testing.T) {
	if got := Topic("acme", "car-7", TopicLane(Lane_LANE_TELEMETRY)); got != "wb1/acme/car-7/up/telemetry" {
		t.Error(got)
	}
	for _, rest := range []string{TopicStatus, TopicResult, TopicReceipt, TopicCommand, TopicCampaign, TopicRequest, TopicChunk, TopicLane(Lane_LANE_RAW)} {
		tenant, device, got, err := ParseTopic(Topic("acme", "käfer", rest))
		if tenant != "acme" || device != "käfer" || got != rest || err != nil {
			t.Errorf("%s: %s %s %s %v", rest, tenant, device, got, err)
		}
	}
	for _, topic := range []string{"", "wb1", "wb1/a/b", "wb1/a/b/", "wb2/a/b/up/raw", "wb1//b/up/raw", "wb1/a//up/raw", "wb1/a/+/up/raw", "/wb1/a/b/up/raw"} {
		if _, _, _, err := ParseTopic(topic); err == nil {
			t.Errorf("topic %q was taken", topic)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "WBX-0001_7", "käfer", strings.Repeat("x", MaxName)} {
		if err := CheckName("device", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "a/b", "a+", "#", "a.b", "a b", "a\x00", "a\n", "a\u0085", "a\xff", strings.Repeat("x", MaxName+1)} {
		if err := CheckName("device", name); err == nil || !strings.HasPrefix(err.Error(), "device ") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestLaneNames(t *testing.T) {
	for l := Lane_LANE_CONTROL; l <= Lane_LANE_RAW; l++ {
		if got, err := ParseLane(LaneName(l)); got != l || err != nil {
			t.Errorf("lane %d: %d, %v", l, got, err)
		}
	}
	for _, name := range []string{"", "Telemetry", "lane0"} {
		if _, err := ParseLane(name); err == nil {
			t.Errorf("lane %q was taken", name)
		}
	}
}
