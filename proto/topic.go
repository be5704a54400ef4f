package telemetrypb

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TopicRoot begins every topic; its number changes only when the meaning of topics does.
const TopicRoot = "wb1"

// What follows wb1/{tenant}/{device}/ in a topic.
const (
	TopicStatus   = "up/status"     // Status, retained; also the last will
	TopicResult   = "up/result"     // CommandResult
	TopicReceipt  = "down/receipt"  // Receipt
	TopicCommand  = "down/command"  // Down
	TopicCampaign = "down/campaign" // Down, retained
	TopicRequest  = "up/request"    // delivery.Request: bytes of an image are asked for
	TopicChunk    = "down/chunk"    // delivery.Chunk: some of them
)

// Topic is wb1/{tenant}/{device}/{rest}. Tenant and device have passed CheckName.
func Topic(tenant, device, rest string) string {
	return TopicRoot + "/" + tenant + "/" + device + "/" + rest
}

// TopicLane is the rest of the topic that payloads of a lane are published to: up/telemetry.
func TopicLane(l Lane) string { return "up/" + LaneName(l) }

// ParseTopic takes a topic apart. What it accepts, Topic puts together again.
func ParseTopic(topic string) (tenant, device, rest string, err error) {
	parts := strings.SplitN(topic, "/", 4)
	if len(parts) != 4 || parts[0] != TopicRoot || parts[3] == "" {
		return "", "", "", fmt.Errorf("topic %.200q: %w: want %s/TENANT/DEVICE/…", topic, ErrMalformed, TopicRoot)
	}
	if err := CheckName("tenant", parts[1]); err != nil {
		return "", "", "", fmt.Errorf("topic %.200q: %w: %v", topic, ErrMalformed, err)
	}
	if err := CheckName("device", parts[2]); err != nil {
		return "", "", "", fmt.Errorf("topic %.200q: %w: %v", topic, ErrMalformed, err)
	}
	return parts[1], parts[2], parts[3], nil
}

// CheckName says whether a tenant or device id can stand in a topic, in a file name and in a broker's rule. what is
// the word for it in the error: tenant, device.
func CheckName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is empty", what)
	case len(name) > MaxName:
		return fmt.Errorf("%s %.80q has %d bytes, at most %d are allowed", what, name, len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%s %q is not UTF-8", what, name)
	}
	for _, r := range name {
		if strings.ContainsRune("/+#.", r) || unicode.IsControl(r) || unicode.IsSpace(r) {
			return fmt.Errorf("%s %q holds %q; '/', '+', '#', '.', blanks and control characters are not allowed", what, name, r)
		}
	}
	return nil
}

// LaneName is a lane's word in topics, configuration and logs: control, event, telemetry, raw.
func LaneName(l Lane) string {
	switch l {
	case Lane_LANE_CONTROL:
		return "control"
	case Lane_LANE_EVENT:
		return "event"
	case Lane_LANE_TELEMETRY:
		return "telemetry"
	case Lane_LANE_RAW:
		return "raw"
	}
	return fmt.Sprintf("lane%d", int32(l))
}

// ParseLane reads a lane's word.
func ParseLane(name string) (Lane, error) {
	for l := Lane_LANE_CONTROL; l <= Lane_LANE_RAW; l++ {
		if LaneName(l) == name {
			return l, nil
		}
	}
	return Lane_LANE_UNSPECIFIED, fmt.Errorf("lane %.40q: want control, event, telemetry or raw", name)
}
