package fleetwise

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// maxInput bounds a file, bytes.
const maxInput = 64 << 20

// isJSON says whether it is JSON, or was meant to be: no protobuf message of FleetWise begins with these bytes. Many begin
// with 0x0A, which is a blank to JSON.
func isJSON(b []byte) bool {
	return json.Valid(b) || len(b) > 0 && (b[0] == '{' || b[0] == '[')
}

// Decoders adds a decoder manifest: JSON of the API (a list of signal decoders, or the request that holds one), or
// protobuf of the edge agent.
func (s *Source) Decoders(b []byte) error {
	if len(b) > maxInput {
		return fmt.Errorf("it has more than %d MiB", maxInput>>20)
	}
	if !isJSON(b) {
		return s.protoDecoders(b)
	}
	list, object, err := split(b)
	if err != nil {
		return err
	}
	for _, key := range []string{"signalDecoders", "signalDecodersToAdd", "signalDecodersToUpdate"} {
		list = append(list, object.list(key)...)
	}
	for _, key := range []string{"networkInterfaces", "networkInterfacesToAdd"} {
		for _, one := range object.list(key) {
			s.jsonInterface(one)
		}
	}
	for _, one := range list {
		s.jsonDecoder(one)
	}
	return nil
}

// Networks adds network interfaces, as JSON of the API.
func (s *Source) Networks(b []byte) error {
	list, object, err := split(b)
	if err != nil {
		return err
	}
	for _, key := range []string{"networkInterfaces", "networkInterfacesToAdd"} {
		list = append(list, object.list(key)...)
	}
	for _, one := range list {
		s.jsonInterface(one)
	}
	return nil
}

// Campaign adds a campaign as JSON of the API, under a name if it has none, or the collection schemes of the edge agent.
func (s *Source) Campaign(name string, b []byte) error {
	if len(b) > maxInput {
		return fmt.Errorf("it has more than %d MiB", maxInput>>20)
	}
	if !isJSON(b) {
		return s.protoSchemes(b)
	}
	list, object, err := split(b)
	if err != nil {
		return err
	}
	if object != nil {
		list = []fieldsOf{object}
	}
	for _, one := range list {
		s.jsonCampaign(name, one)
	}
	return nil
}

// fieldsOf is a JSON object; reading a key takes it out.
type fieldsOf map[string]json.RawMessage

func split(b []byte) (list []fieldsOf, object fieldsOf, err error) {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("[")) {
		err = json.Unmarshal(b, &list)
	} else {
		err = json.Unmarshal(b, &object)
	}
	return list, object, err
}

func take[T any](f fieldsOf, key string) (v T) {
	if raw, ok := f[key]; ok && json.Unmarshal(raw, &v) == nil {
		delete(f, key)
	}
	return v
}

func (f fieldsOf) text(key string) string     { return take[string](f, key) }
func (f fieldsOf) object(key string) fieldsOf { return take[fieldsOf](f, key) }
func (f fieldsOf) list(key string) []fieldsOf { return take[[]fieldsOf](f, key) }
func (f fieldsOf) number(key string) float64  { return take[number64](f, key).value }
func (f fieldsOf) uint(key string) uint32     { return uint32(max(0, min(f.number(key), 1<<32-1))) }
func (f fieldsOf) isTrue(key string) bool     { return take[truth](f, key).value }
func (f fieldsOf) rest() []string             { return slices.Sorted(maps.Keys(f)) }

// number64 is a number, or text with one, as CloudFormation has it.
type number64 struct{ value float64 }

func (n *number64) UnmarshalJSON(b []byte) (err error) {
	n.value, err = strconv.ParseFloat(string(bytes.Trim(b, `"`)), 64)
	return err
}

// truth is true or false, or text with one.
type truth struct{ value bool }

func (t *truth) UnmarshalJSON(b []byte) (err error) {
	t.value, err = strconv.ParseBool(string(bytes.Trim(b, `"`)))
	return err
}

func (s *Source) jsonInterface(f fieldsOf) {
	if s.Interfaces == nil {
		s.Interfaces = map[string]Interface{}
	}
	id, kind := f.text("interfaceId"), f.text("type")
	switch kind {
	case "CAN_INTERFACE":
		s.Interfaces[id] = Interface{Name: f.object("canInterface").text("name")}
	case "OBD_INTERFACE":
		o := f.object("obdInterface")
		s.Interfaces[id] = Interface{Name: o.text("name"), OBD: true, EveryS: int(o.uint("pidRequestIntervalSeconds")),
			CodesS: int(o.uint("dtcRequestIntervalSeconds")), RequestID: o.uint("requestMessageId")}
	default:
		s.lost("interface %s is a %s, which has no counterpart", id, kind)
	}
}

func (s *Source) jsonDecoder(f fieldsOf) {
	name, id, kind := f.text("fullyQualifiedName"), f.text("interfaceId"), f.text("type")
	switch c, o := f.object("canSignal"), f.object("obdSignal"); {
	case c != nil:
		s.CAN = append(s.CAN, CANSignal{Name: name, Interface: id, Message: c.uint("messageId"),
			StartBit: c.uint("startBit"), Length: c.uint("length"), BigEndian: c.isTrue("isBigEndian"), Signed: c.isTrue("isSigned"), Float: c.text("signalValueType") == "FLOATING_POINT",
			Factor: c.number("factor"), Offset: c.number("offset")})
		c.text("name")
		s.unknown("signal "+name, c)
	case o != nil:
		s.OBD = append(s.OBD, OBDSignal{Name: name, Interface: id, Mode: o.uint("serviceMode"), PID: o.uint("pid"),
			StartByte: o.uint("startByte"), ByteLength: o.uint("byteLength"), Shift: o.uint("bitRightShift"),
			Mask: o.uint("bitMaskLength"), Signed: o.isTrue("isSigned"), Scaling: o.number("scaling"), Offset: o.number("offset")})
		o.uint("pidResponseLength")
		o.text("signalValueType")
		s.unknown("signal "+name, o)
	default:
		s.lost("signal %s is a %s, which has no counterpart", name, kind)
	}
}

// unknown names what nobody has taken.
func (s *Source) unknown(where string, f fieldsOf) {
	for _, key := range f.rest() {
		s.lost("%s: %s does not carry over", where, key)
	}
}

func (s *Source) jsonCampaign(name string, f fieldsOf) {
	c := Scheme{Name: name, AfterMS: f.uint("postTriggerCollectionDuration"), Priority: f.uint("priority"),
		Codes: f.text("diagnosticsMode") == "SEND_ACTIVE_DTCS", Expires: f["expiryTime"] != nil}
	if own := f.text("name"); own != "" {
		c.Name = own
	}
	where := "campaign " + c.Name
	for _, key := range []string{"expiryTime", "startTime", // the first is told of, the second is now
		"compression", "spoolingMode", // always so
		"description", "signalCatalogArn", "targetArn", "tags", "arn", "status", "creationTime", "lastModificationTime"} {
		delete(f, key)
	}
	scheme := f.object("collectionScheme")
	if t := scheme.object("timeBasedCollectionScheme"); t != nil {
		c.PeriodMS = t.uint("periodMs")
		s.unknown(where, t)
	}
	if t := scheme.object("conditionBasedCollectionScheme"); t != nil {
		t.number("conditionLanguageVersion")
		c.IntervalMS, c.RisingEdge = t.uint("minimumTriggerIntervalMs"), t.text("triggerMode") == "RISING_EDGE"
		text := t.text("expression")
		var err error
		if c.Condition, err = parseExpression(text); err != nil {
			c.Condition = &Node{Kind: other, Text: text}
		}
		s.unknown(where, t)
	}
	s.unknown(where, scheme)
	for _, one := range f.list("signalsToCollect") {
		c.Signals = append(c.Signals, Collected{Name: one.text("name"),
			MinPeriodMS: one.uint("minimumSamplingIntervalMs"), Samples: one.uint("maxSampleCount")})
		s.unknown(where, one)
	}
	s.unknown(where, f)
	s.Schemes = append(s.Schemes, c)
}
