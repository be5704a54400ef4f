package mongo

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What a row may have beyond the fields that are known.
const (
	maxFields = 64 // of an object
	maxDepth  = 8  // of objects and lists in each other
)

// framed is the size of the head that a schema registry's clients put before a JSON value: a zero byte and the schema's
// number, four bytes.
const framed = 5

// kind is what a field of a decoded row is (docs/KAFKA.md).
type kind int

const (
	text kind = iota
	integer
	double
	instant // ISO 8601, UTC
	truth
)

// kindOf names the fields of decoded rows. Others keep the kind that their JSON has.
func kindOf(name string) (kind, bool) {
	switch name {
	case "tenant", "device", "epoch", "lane", "name", "unit", "text", "label", "boot_id", "source", "reason", "detail":
		return text, true
	case "seq", "index", "uncertainty_ns", "boot_ns", "count":
		return integer, true
	case "value", "latitude", "longitude", "altitude", "speed", "course":
		return double, true
	case "time", "received":
		return instant, true
	case "suspect":
		return truth, true
	}
	return 0, false
}

// row is a decoded row as a document.
type row struct {
	id     string // TENANT/DEVICE/EPOCH/LANE/SEQ/INDEX
	fields bson.D // in the order of the value, without _id and what is null
}

// Judge says what is wrong with a record of a decoded topic.
func Judge(key, value []byte) error {
	r, err := parse(value)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(r.id, string(key)+"/") || bytes.Count(key, []byte("/")) != 1 {
		return fmt.Errorf("the key is %.200q, the row is %s", key, r.id)
	}
	return nil
}

// parse reads a value: JSON as it is, or in the frame of a schema registry.
func parse(value []byte) (row, error) {
	switch {
	case len(value) == 0:
		return row{}, errors.New("no value")
	case value[0] == 0 && len(value) > framed && value[framed] == '{':
		value = value[framed:]
	case value[0] == 0:
		return row{}, fmt.Errorf("no JSON under schema %d: this sink reads --decoded-format json", schemaNumber(value))
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	fields, err := object(d, 0)
	if err != nil {
		return row{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return row{}, errors.New("something follows the JSON object")
	}
	id, err := identity(fields)
	return row{id: id, fields: fields}, err
}

func schemaNumber(value []byte) uint32 {
	if len(value) < framed {
		return 0
	}
	return binary.BigEndian.Uint32(value[1:])
}

// object reads an object whose fields, at depth 0, are those of a row.
func object(d *json.Decoder, depth int) (bson.D, error) {
	if depth == 0 {
		if t, err := d.Token(); err != nil {
			return nil, fmt.Errorf("JSON: %w", err)
		} else if t != json.Delim('{') {
			return nil, errors.New("no JSON object: this sink reads --decoded-format json")
		}
	}
	fields, seen := bson.D{}, map[string]bool{}
	for {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("JSON: %w", err)
		}
		name, isName := t.(string)
		if !isName { // the closing brace
			return fields, nil
		}
		switch {
		case name == "" || strings.ContainsAny(name, ".$\x00"):
			return nil, fmt.Errorf("a field is named %.80q: empty names, '.', '$' and NUL make trouble in MongoDB", name)
		case depth == 0 && (name == "_id" || name == fieldKafka || name == fieldMicros):
			return nil, fmt.Errorf("the field %s is the sink's own", name)
		case seen[name]:
			return nil, fmt.Errorf("the field %.80q is there twice", name)
		case len(seen) == maxFields:
			return nil, fmt.Errorf("more than %d fields", maxFields)
		}
		seen[name] = true
		raw, err := value(d, depth+1)
		if err != nil {
			return nil, err
		}
		if raw == nil {
			continue
		}
		if k, known := kindOf(name); known && depth == 0 {
			v, err := convert(k, raw)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if at, ok := v.(time.Time); ok {
				fields = append(fields, bson.E{Key: name, Value: bson.NewDateTimeFromTime(at)})
				if name == "time" { // BSON's dates are milliseconds
					fields = append(fields, bson.E{Key: fieldMicros, Value: at.UnixMicro()})
				}
				continue
			}
			raw = v
		}
		if n, ok := raw.(json.Number); ok {
			raw = number(n)
		}
		fields = append(fields, bson.E{Key: name, Value: raw})
	}
}

// value reads a value: nil, bool, string, json.Number, bson.A or bson.D.
func value(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if t != json.Delim('{') && t != json.Delim('[') {
		return t, nil
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("more than %d levels", maxDepth)
	}
	if t == json.Delim('{') {
		return object(d, depth)
	}
	list := bson.A{}
	for d.More() {
		v, err := value(d, depth+1)
		if err != nil {
			return nil, err
		}
		if n, ok := v.(json.Number); ok {
			v = number(n)
		}
		list = append(list, v)
	}
	if _, err := d.Token(); err != nil { // the closing bracket
		return nil, fmt.Errorf("JSON: %w", err)
	}
	return list, nil
}

// number is an integer where it is one that 64 bits hold. A double out of range is what the text says.
func number(n json.Number) any {
	if i, err := n.Int64(); err == nil {
		return i
	}
	if f, err := n.Float64(); err == nil {
		return f
	}
	return n.String()
}

// convert makes of a JSON value what a field is. Integers may be strings, as those are that pass 2^53.
func convert(k kind, v any) (any, error) {
	s, isText := v.(string)
	n, isNumber := v.(json.Number)
	if isNumber {
		s = n.String()
	}
	switch {
	case k == text && isText:
		return s, nil
	case k == integer && (isText || isNumber):
		if i, err := strconv.ParseInt(s, 10, 64); err == nil {
			return i, nil
		}
		if _, err := strconv.ParseUint(s, 10, 64); err == nil {
			return s, nil // above 2^63, where BSON has no integers
		}
		return nil, fmt.Errorf("%.40q is no integer of 64 bits", s)
	case k == double && isNumber:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsInf(f, 0) {
			return nil, fmt.Errorf("%.40q is no double", s)
		}
		return f, nil
	case k == instant && isText:
		at, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return nil, fmt.Errorf("%.40q is no time such as 2026-01-02T03:04:05.678901Z", s)
		}
		return at, nil
	case k == truth:
		if b, ok := v.(bool); ok {
			return b, nil
		}
	}
	return nil, fmt.Errorf("has another kind than it is to have: %.40q", fmt.Sprint(v))
}

// integerOf is -1 for what is no integer that BSON holds.
func integerOf(v any) int64 {
	if i, ok := v.(int64); ok {
		return i
	}
	return -1
}

// identity is what makes a row the same row, whenever and however often it comes.
func identity(fields bson.D) (string, error) {
	var tenant, device, epoch string
	lane := "-" // of a loss that is of no lane
	seq, index := int64(-1), int64(-1)
	for _, f := range fields {
		switch f.Key {
		case "tenant":
			tenant, _ = f.Value.(string)
		case "device":
			device, _ = f.Value.(string)
		case "epoch":
			epoch, _ = f.Value.(string)
		case "lane":
			lane, _ = f.Value.(string)
		case "seq":
			seq = integerOf(f.Value)
		case "index":
			index = integerOf(f.Value)
		}
	}
	if err := errors.Join(telemetrypb.CheckName("tenant", tenant), telemetrypb.CheckName("device", device)); err != nil {
		return "", err
	}
	if b, err := hex.DecodeString(epoch); err != nil || len(b) != 8 || strings.ToLower(epoch) != epoch {
		return "", fmt.Errorf("epoch %.40q: want 16 hex digits", epoch)
	}
	if lane == "" || len(lane) > 32 || strings.Trim(lane, "abcdefghijklmnopqrstuvwxyz_-") != "" {
		return "", fmt.Errorf("lane %.40q: want control, event, telemetry or raw", lane)
	}
	if seq < 0 || index < 0 {
		return "", errors.New("seq and index: want integers of 0 and more")
	}
	return fmt.Sprintf("%s/%s/%s/%s/%d/%d", tenant, device, epoch, lane, seq, index), nil
}
