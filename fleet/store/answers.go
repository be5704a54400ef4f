package store

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/fleet/api"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What follows makes the API's words of what tables hold, alike for every store.

// ExcludedMost is where counting of positions that are not shown ends.
const ExcludedMost = 10_000

// ShowStatus says of a device what its last status said, which came at `received`.
func ShowStatus(d *api.Device, st *telemetrypb.Status, received time.Time) {
	d.State, d.Version, d.Alarms = api.StateOffline, st.GetVersion(), len(st.GetAlarms())
	if st.GetOnline() {
		d.State = api.StateOnline
	}
	if len(st.GetQueue()) == 0 {
		return
	}
	q := &api.Queue{AsOf: received, Lanes: []api.LaneDepth{}}
	for _, l := range st.GetQueue() {
		q.Batches, q.Bytes = q.Batches+l.GetBatches(), q.Bytes+l.GetBytes()
		q.Lanes = append(q.Lanes, api.LaneDepth{Lane: telemetrypb.LaneName(l.GetLane()), Batches: l.GetBatches(), Bytes: l.GetBytes(), NextSeq: l.GetNextSeq()})
	}
	d.Queue = q
}

// ShowDetail adds what only the page of one device shows.
func ShowDetail(a *api.DeviceDetail, st *telemetrypb.Status) {
	a.Hardware, a.Power, a.Reason = st.GetHardware(), st.GetPower(), st.GetReason()
	if st.GetTimeSource() != telemetrypb.TimeSource_TIME_SOURCE_NONE && st.GetTimeUnixNs() > 0 {
		t := unixNano(st.GetTimeUnixNs())
		a.Reported = &t
	}
	for _, al := range st.GetAlarms() {
		a.Alarm = append(a.Alarm, api.Alarm{Name: al.GetName(), Text: al.GetText(), Times: al.GetTimes()})
	}
}

// SourceName is the word for what a time is from.
func SourceName(source int64) string {
	return strings.ToLower(strings.TrimPrefix(telemetrypb.TimeSource(source).String(), "TIME_SOURCE_"))
}

// ReasonName is the word for the reason of a loss.
func ReasonName(reason int64) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(telemetrypb.LossReason(reason).String(), "LOSS_"), "_", " "))
}

// Shown is a value as the API answers it. Bytes are told by their number.
func Shown(raw, value Scalar, label string, labels map[string]string) (v api.Value) {
	switch value.Kind {
	case telemetrypb.KindInt:
		v.Value = int64(value.Bits)
	case telemetrypb.KindUint:
		v.Value = value.Bits
	case telemetrypb.KindFloat:
		switch f := math.Float64frombits(value.Bits); {
		case f != f:
			v.Value = "NaN"
		case math.IsInf(f, 0):
			v.Value = fmt.Sprint(f)
		default:
			v.Value = f
		}
	default:
		switch raw.Kind {
		case telemetrypb.KindString:
			v.Value = strings.ToValidUTF8(raw.Text, "\uFFFD")
		case KindBlob:
			v.Value = fmt.Sprintf("%d bytes", len(raw.Text))
		}
	}
	if v.Label = label; label == "" && (raw.Kind == telemetrypb.KindInt || raw.Kind == telemetrypb.KindUint) {
		v.Label = labels[fmt.Sprint(int64(raw.Bits))]
	}
	return v
}

// Queued is what a vehicle said to have still in its queue of a sequence; nil: it said nothing of this epoch.
func Queued(st *telemetrypb.Status, epoch uint64, lane telemetrypb.Lane) *uint64 {
	if st == nil || st.GetEpoch() != epoch {
		return nil
	}
	for _, l := range st.GetQueue() {
		if l.GetLane() == lane {
			n := l.GetBatches()
			return &n
		}
	}
	return nil
}

// GapKey orders gaps; the number has as many digits as there can be. Joined by slashes it is a page's cursor.
func GapKey(g *api.Gap) []string {
	return []string{g.Tenant, g.DeviceID.Device, g.Epoch, g.Lane, fmt.Sprintf("%020d", g.First)}
}

// GapCursor takes a cursor apart; nil: the first page.
func GapCursor(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	key := strings.Split(text, "/")
	if len(key) != 5 {
		return nil, api.ErrCursor
	}
	if _, err := strconv.ParseUint(key[4], 10, 64); err != nil {
		return nil, api.ErrCursor
	}
	return key, nil
}

// RowCursor is a cursor that is a row's number; 0: the first page.
func RowCursor(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	row, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, api.ErrCursor
	}
	return row, nil
}

// LetterTopics are the bounds of the topics of a tenant; of all when it is empty.
func LetterTopics(tenant string) (from, below string) {
	if tenant == "" {
		return "", "\uFFFF"
	}
	topic := strings.TrimSuffix(telemetrypb.Topic(tenant, "-", ""), "-/")
	return topic, strings.TrimSuffix(topic, "/") + "0" // the character after the slash
}

// LettersOf is the range of topics that a dead letter's device publishes to.
func LettersOf(topic string) (from, below string) {
	tenant, device, _, err := telemetrypb.ParseTopic(topic)
	if err != nil {
		return topic, topic + "\x01" // no topic has either
	}
	from = telemetrypb.Topic(tenant, device, "")
	return from, from[:len(from)-1] + "0" // the character behind '/'
}
