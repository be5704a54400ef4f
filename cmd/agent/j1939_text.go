package main

import (
	"fmt"

	"github.com/waybill-telematics/waybill/can/j1939"
)

// The texts are JSON with keys in a fixed order, so that the same content is the same text: docs/J1939.md has the shapes.

// maxFaultsText bounds the text of a list of trouble codes, bytes: a sample is sent up to 8 KiB. It has room for some 200
// codes; a list that is longer says how many are left out.
const maxFaultsText = 7 << 10

// noOccurrences is a count of occurrences that the sender does not know (SAE J1939-73, SPN 1216).
const noOccurrences = 127

// faultsText is {"sa":0,"mil":"on",…,"codes":[{"spn":1569,"fmi":31,"count":5}]}.
func faultsText(address uint8, payload []byte) (string, error) {
	f, err := j1939.ParseFaults(payload)
	if err != nil {
		return "", err
	}
	text := fmt.Appendf(nil, `{"sa":%d,"mil":"%s","stop":"%s","warning":"%s","protect":"%s","codes":[`, address,
		lampText(f.Lamps.Malfunction), lampText(f.Lamps.Stop), lampText(f.Lamps.Warning), lampText(f.Lamps.Protect))
	for i, c := range f.Codes {
		if len(text) > maxFaultsText {
			return string(fmt.Appendf(text, `],"more":%d}`, len(f.Codes)-i)), nil
		}
		if i > 0 {
			text = append(text, ',')
		}
		text = fmt.Appendf(text, `{"spn":%d,"fmi":%d`, c.SPN, c.FMI)
		if c.Occurrences != noOccurrences {
			text = fmt.Appendf(text, `,"count":%d`, c.Occurrences)
		}
		if c.OldConversion {
			text = append(text, `,"cm":1`...)
		}
		text = append(text, '}')
	}
	return string(append(text, "]}"...)), nil
}

// lampText is a word for what a lamp shows; how it flashes counts where it is on.
func lampText(l j1939.Lamp) string {
	switch l.State {
	case j1939.LampOff:
		return "off"
	case j1939.LampNotAvailable:
		return "n/a"
	case j1939.LampError:
		return "reserved"
	}
	switch l.Flash {
	case j1939.FlashSlow:
		return "flash_slow"
	case j1939.FlashFast:
		return "flash_fast"
	}
	return "on"
}

// nullAddress is the source address of a node that could not claim one (SAE J1939-81: cannot claim).
const nullAddress = 254

// nameText is {"sa":3,"claimed":true,"name":"C0F08277E76631CF","identity":405967,…}; name is the whole NAME as a number.
func nameText(address uint8, payload []byte) (string, error) {
	n, err := j1939.ParseName(payload)
	if err != nil {
		return "", err
	}
	name := make([]byte, 0, 16)
	for i := 7; i >= 0; i-- {
		name = fmt.Appendf(name, "%02X", payload[i])
	}
	return fmt.Sprintf(`{"sa":%d,"claimed":%t,"name":"%s","identity":%d,"manufacturer":%d,"ecu_instance":%d,"function_instance":%d,`+
		`"function":%d,"system":%d,"system_instance":%d,"industry_group":%d,"arbitrary":%t}`, address, address != nullAddress, name,
		n.Identity, n.Manufacturer, n.ECUInstance, n.FunctionInstance, n.Function, n.System, n.SystemInstance, n.IndustryGroup,
		n.ArbitraryAddressable), nil
}
