package decoded

import (
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// jsonWriter writes the JSON form by hand: there is one row a sample. What all rows of a batch share is written once a batch.
type jsonWriter struct {
	of         *store.DecodedBatch
	boot       string
	head, tail []byte
}

// begin prepares what the rows of a batch share: ahead of the index, and behind the boot's time.
func (w *jsonWriter) begin(of *store.DecodedBatch) {
	if w.of == of {
		return
	}
	w.of, w.boot = of, uuid(of.BootID)
	w.head = appendHead(w.head[:0], of.Tenant, of.Device, of.Key)
	w.tail = append(appendTime(append(w.tail[:0], `,"received":"`...), of.Received.UnixNano()), `"}`...)
}

// appendHead writes {tenant, device, epoch, lane, seq, and the name of the index.
func appendHead(b []byte, tenant, device string, k store.Key) []byte {
	b = appendString(append(b, `{"tenant":`...), tenant)
	b = appendString(append(b, `,"device":`...), device)
	b = append(append(b, `,"epoch":"`...), epochName(k.Epoch)...)
	b = append(append(b, `","lane":"`...), telemetrypb.LaneName(k.Lane)...)
	b = strconv.AppendUint(append(b, `","seq":`...), k.Seq, 10)
	return append(b, `,"index":`...)
}

func (w *jsonWriter) sample(b []byte, of *store.DecodedBatch, s *store.DecodedSample) []byte {
	w.begin(of)
	b = strconv.AppendUint(append(b, w.head...), uint64(s.Index), 10)
	b = appendString(append(b, `,"name":`...), s.Name)
	b = appendString(append(b, `,"unit":`...), s.Unit)
	b = append(b, `,"value":`...)
	if s.HasValue {
		b = appendNumber(b, s.Value)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"text":`...)
	if s.HasText {
		b = appendString(b, s.Text)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"label":`...)
	if s.Label != "" {
		b = appendString(b, s.Label)
	} else {
		b = append(b, "null"...)
	}
	b = appendDate(b, s)
	b = append(append(b, `,"boot_id":"`...), w.boot...)
	b = strconv.AppendInt(append(b, `","boot_ns":`...), s.BootNS, 10)
	return append(b, w.tail...)
}

// appendDate writes time and uncertainty.
func appendDate(b []byte, s *store.DecodedSample) []byte {
	if !s.Dated {
		return append(b, `,"time":null,"uncertainty_ns":0`...)
	}
	b = append(appendTime(append(b, `,"time":"`...), s.WallNS), '"')
	return strconv.AppendInt(append(b, `,"uncertainty_ns":`...), s.UncertaintyNS, 10)
}

func (w *jsonWriter) position(b []byte, p *Position) []byte {
	w.begin(p.DecodedBatch)
	b = strconv.AppendUint(append(b, w.head...), uint64(p.At.Index), 10)
	b = appendString(append(b, `,"source":`...), p.Source)
	b = appendNumber(append(b, `,"latitude":`...), p.Latitude)
	b = appendNumber(append(b, `,"longitude":`...), p.Longitude)
	b = appendMaybe(append(b, `,"altitude":`...), p.Altitude)
	b = appendMaybe(append(b, `,"speed":`...), p.Speed)
	b = appendMaybe(append(b, `,"course":`...), p.Course)
	b = strconv.AppendBool(append(b, `,"suspect":`...), p.Suspect)
	b = appendDate(b, p.At)
	return append(b, w.tail...)
}

func (w *jsonWriter) loss(b []byte, l *store.DecodedLoss) []byte {
	b = appendString(append(b, `{"tenant":`...), l.Tenant)
	b = appendString(append(b, `,"device":`...), l.Device)
	b = append(append(b, `,"epoch":"`...), epochName(l.Epoch)...)
	b = append(b, `","lane":`...)
	if l.Of == telemetrypb.Lane_LANE_UNSPECIFIED {
		b = append(b, "null"...)
	} else {
		b = appendString(b, telemetrypb.LaneName(l.Of))
	}
	b = strconv.AppendUint(append(b, `,"seq":`...), l.Seq, 10)
	b = strconv.AppendInt(append(b, `,"index":`...), l.Index, 10)
	b = appendString(append(b, `,"source":`...), l.Source)
	b = appendString(append(b, `,"reason":`...), l.Reason.String())
	b = strconv.AppendUint(append(b, `,"count":`...), uint64(l.Count), 10)
	b = appendString(append(b, `,"unit":`...), l.Unit)
	b = appendString(append(b, `,"detail":`...), l.Detail)
	return append(appendTime(append(b, `,"received":"`...), l.Received.UnixNano()), `"}`...)
}

func appendMaybe(b []byte, v *float64) []byte {
	if v == nil {
		return append(b, "null"...)
	}
	return appendNumber(b, *v)
}

// appendNumber writes the shortest number that is read as v again; JSON has none for an infinity or no number.
func appendNumber(b []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, "null"...)
	}
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(b, v, 'e', -1, 64)
	}
	return strconv.AppendFloat(b, v, 'f', -1, 64)
}

// appendTime writes an instant in µs; what is left of a µs goes.
func appendTime(b []byte, unixNS int64) []byte {
	us := unixNS / 1000
	if unixNS%1000 < 0 {
		us--
	}
	t := time.UnixMicro(us).UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendDigits(b, year, 4)
	b = appendDigits(append(b, '-'), int(month), 2)
	b = appendDigits(append(b, '-'), day, 2)
	b = appendDigits(append(b, 'T'), hour, 2)
	b = appendDigits(append(b, ':'), minute, 2)
	b = appendDigits(append(b, ':'), second, 2)
	b = appendDigits(append(b, '.'), t.Nanosecond()/1000, 6)
	return append(b, 'Z')
}

// appendDigits writes n, which is not negative (Unix ns end in the years 1677 and 2262), in so many digits.
func appendDigits(b []byte, n, digits int) []byte {
	at := len(b)
	for range digits {
		b = append(b, '0')
	}
	for i := at + digits - 1; i >= at; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

const hexadecimal = "0123456789abcdef"

// appendString writes a JSON string. What is no UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[from:i]...), "\uFFFD"...)
				from = i + 1
			}
			i += size
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, `\n`...)
			case '\t':
				b = append(b, `\t`...)
			default:
				b = append(b, `\u00`...)
				b = append(b, hexadecimal[c>>4], hexadecimal[c&15])
			}
			from = i + 1
		}
		i++
	}
	return append(append(b, s[from:]...), '"')
}
