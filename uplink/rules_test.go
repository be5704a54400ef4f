package uplink_test

import "github.com/waybill-telematics/waybill/uplink/uplinktest"

func uplinkRules(noPuback func(string) bool) uplinktest.Rules {
	return uplinktest.Rules{NoPuback: noPuback}
}
