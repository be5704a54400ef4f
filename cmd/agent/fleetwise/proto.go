package fleetwise

import (
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// value is one field of a protobuf message.
type value struct {
	number protowire.Number
	uint   uint64 // varint, fixed64
	bytes  []byte
}

func (v value) text() string     { return string(v.bytes) }
func (v value) double() float64  { return math.Float64frombits(v.uint) }
func (v value) uint32() uint32   { return uint32(v.uint) }
func (v value) isTrue() bool     { return v.uint != 0 }
func (v value) signalID() string { return signalName(v.uint32()) }

// signalName names a signal that has only a number.
func signalName(id uint32) string { return fmt.Sprintf("Signal%d", id) }

// fields hands each field of a message to f.
func fields(b []byte, f func(value) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		v := value{number: number}
		switch kind {
		case protowire.VarintType:
			v.uint, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v.uint, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// protoDecoders reads a DecoderManifest (decoder_manifest.proto).
func (s *Source) protoDecoders(b []byte) error {
	return fields(b, func(v value) error {
		switch v.number {
		case 2:
			return s.protoCAN(v.bytes)
		case 3:
			return s.protoOBD(v.bytes)
		case 4: // types of what 5 has
		case 5:
			return s.protoOther(v.bytes, "a complex signal")
		case 6:
			return s.protoOther(v.bytes, "decoded by the customer's own code")
		}
		return nil
	})
}

func (s *Source) protoCAN(b []byte) error {
	var c CANSignal
	err := fields(b, func(v value) error {
		switch v.number {
		case 1:
			c.ID, c.Name = v.uint32(), v.signalID()
		case 2:
			c.Interface = v.text()
		case 3:
			c.Message = v.uint32()
		case 4:
			c.BigEndian = v.isTrue()
		case 5:
			c.Signed = v.isTrue()
		case 6:
			c.StartBit = v.uint32()
		case 7:
			c.Offset = v.double()
		case 8:
			c.Factor = v.double()
		case 9:
			c.Length = v.uint32()
		case 11:
			c.Float = v.uint == 1
		}
		return nil
	})
	s.CAN = append(s.CAN, c)
	return err
}

func (s *Source) protoOBD(b []byte) error {
	var o OBDSignal
	err := fields(b, func(v value) error {
		switch v.number {
		case 1:
			o.ID, o.Name = v.uint32(), v.signalID()
		case 2:
			o.Interface = v.text()
		case 4:
			o.Mode = v.uint32()
		case 5:
			o.PID = v.uint32()
		case 6:
			o.Scaling = v.double()
		case 7:
			o.Offset = v.double()
		case 8:
			o.StartByte = v.uint32()
		case 9:
			o.ByteLength = v.uint32()
		case 10:
			o.Shift = v.uint32()
		case 11:
			o.Mask = v.uint32()
		case 13:
			o.Signed = v.isTrue()
		}
		return nil
	})
	s.OBD = append(s.OBD, o)
	return err
}

func (s *Source) protoOther(b []byte, what string) error {
	return fields(b, func(v value) error {
		if v.number == 1 {
			s.lost("%s is %s, which has no counterpart", v.signalID(), what)
		}
		return nil
	})
}

// protoSchemes reads CollectionSchemes (collection_schemes.proto).
func (s *Source) protoSchemes(b []byte) error {
	return fields(b, func(v value) error {
		if v.number != 1 {
			return nil
		}
		scheme, err := s.protoScheme(v.bytes)
		s.Schemes = append(s.Schemes, scheme)
		return err
	})
}

func (s *Source) protoScheme(b []byte) (c Scheme, err error) {
	err = fields(b, func(v value) error {
		switch v.number {
		case 1:
			c.Name = v.text()
		case 4:
			c.Expires = v.uint != 0
		case 5:
			return fields(v.bytes, func(v value) error {
				if v.number == 1 {
					c.PeriodMS = v.uint32()
				}
				return nil
			})
		case 6:
			return c.protoCondition(v.bytes)
		case 7:
			c.AfterMS = v.uint32()
		case 8:
			c.Codes = v.isTrue()
		case 9:
			return c.protoSignal(v.bytes)
		case 10:
			return c.protoRaw(v.bytes)
		case 13:
			c.Priority = v.uint32()
		case 14:
			return fields(v.bytes, func(v value) error {
				c.Probability = v.double()
				return nil
			})
		case 2, 3, 11, 12: // which manifest, since when, persistent and compressed: always so
		default:
			s.lost("campaign %s: field %d of the collection scheme is not known here", c.Name, v.number)
		}
		return nil
	})
	return c, err
}

func (c *Scheme) protoSignal(b []byte) error {
	var one Collected
	err := fields(b, func(v value) error {
		switch v.number {
		case 1:
			one.ID, one.Name = v.uint32(), v.signalID()
		case 2:
			one.Samples = v.uint32()
		case 3:
			one.MinPeriodMS = v.uint32()
		case 5:
			one.ConditionOnly = v.isTrue()
		}
		return nil
	})
	c.Signals = append(c.Signals, one)
	return err
}

func (c *Scheme) protoRaw(b []byte) error {
	var r RawFrame
	err := fields(b, func(v value) error {
		switch v.number {
		case 1:
			r.Interface = v.text()
		case 2:
			r.Message = v.uint32()
		case 4:
			r.MinPeriodMS = v.uint32()
		}
		return nil
	})
	c.Raw = append(c.Raw, r)
	return err
}

func (c *Scheme) protoCondition(b []byte) error {
	return fields(b, func(v value) (err error) {
		switch v.number {
		case 1:
			c.IntervalMS = v.uint32()
		case 3:
			c.Condition, err = protoNode(v.bytes, 0)
		case 4:
			c.RisingEdge = v.uint == 1
		}
		return err
	})
}

// protoOperators are NodeOperator.Operator.
var protoOperators = []string{"<", ">", "<=", ">=", "==", "!=", "&&", "||", "!", "+", "-", "*", "/"}

func protoNode(b []byte, depth int) (*Node, error) {
	n := &Node{Kind: other, Text: "an empty node"}
	if depth > maxDepth {
		return nil, errors.New("the condition is nested too deeply")
	}
	err := fields(b, func(v value) error {
		switch v.number {
		case 1:
			return n.protoOperator(v.bytes, depth)
		case 3:
			*n = Node{Kind: number, Number: v.double()}
		case 4:
			*n = Node{Kind: signal, Text: v.signalID()}
		default:
			*n = Node{Kind: other, Text: fmt.Sprintf("a node of kind %d (function, text or boolean)", v.number)}
		}
		return nil
	})
	return n, err
}

func (n *Node) protoOperator(b []byte, depth int) error {
	*n = Node{Kind: operator, Text: protoOperators[0]} // proto3 leaves the first one out
	var left, right *Node
	err := fields(b, func(v value) (err error) {
		switch v.number {
		case 1:
			left, err = protoNode(v.bytes, depth+1)
		case 2:
			right, err = protoNode(v.bytes, depth+1)
		case 3:
			if v.uint >= uint64(len(protoOperators)) {
				return fmt.Errorf("there is no operator %d", v.uint)
			}
			n.Text = protoOperators[v.uint]
		}
		return err
	})
	for _, one := range []*Node{left, right} {
		if one != nil {
			n.Kids = append(n.Kids, one)
		}
	}
	return err
}
