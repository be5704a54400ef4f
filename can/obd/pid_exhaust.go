package obd

import "fmt"

// addExhaust adds turbochargers, exhaust and its treatment: 69, 6B, 6F–7E, 81–8C, 90–A5. Of some the table has the length
// only, so that what follows them in an answer can be read.
func addExhaust(t *table) {
	t.add(0x69, 7, whenInOrder(u8("CommandedEGRA", "%", byteB, percent, 0), u8("ActualEGRA", "%", byteC, percent, 0), u8("EGRErrorA", "%", byteD, trim, -100),
		u8("CommandedEGRB", "%", byteE, percent, 0), u8("ActualEGRB", "%", byteF, percent, 0), u8("EGRErrorB", "%", byteG, trim, -100))...)
	t.add(0x6B, 5, orWide(4, 4, same(1, "°C", 1, -40, "EGRTemperature11", "EGRTemperature12", "EGRTemperature21", "EGRTemperature22"))...)
	t.add(0x6F, 3, orWide(2, 8, same(1, "kPa", 1, 0, "TurboInletPressureA", "TurboInletPressureB"))...)
	t.add(0x70, 10, whenInOrder(u16("CommandedBoostPressureA", "kPa", byteB, perThird, 0), u16("BoostPressureA", "kPa", byteD, perThird, 0), bits("BoostControlA", byteJ, 1, 2),
		u16("CommandedBoostPressureB", "kPa", byteF, perThird, 0), u16("BoostPressureB", "kPa", byteH, perThird, 0), bits("BoostControlB", byteJ, 3, 2))...)
	t.add(0x71, 6, whenInOrder(u8("CommandedVGTA", "%", byteB, percent, 0), u8("VGTPositionA", "%", byteC, percent, 0), bits("VGTControlA", byteF, 1, 2),
		u8("CommandedVGTB", "%", byteD, percent, 0), u8("VGTPositionB", "%", byteE, percent, 0), bits("VGTControlB", byteF, 3, 2))...)
	t.add(0x72, 5, same(1, "%", percent, 0, "CommandedWastegateA", "WastegatePositionA", "CommandedWastegateB", "WastegatePositionB")...)
	t.add(0x73, 5, same(2, "kPa", 0.01, 0, "ExhaustPressure1", "ExhaustPressure2")...)
	t.add(0x74, 5, same(2, "rpm", 10, 0, "TurboSpeedA", "TurboSpeedB")...)
	for i, turbo := range []string{"A", "B"} {
		name := func(what string) string { return "Turbo" + turbo + what }
		t.add(0x75+uint8(i), 7, whenInOrder(u8(name("CompressorInletTemperature"), "°C", byteB, 1, -40), u8(name("CompressorOutletTemperature"), "°C", byteC, 1, -40),
			u16(name("TurbineInletTemperature"), "°C", byteD, 0.1, -40), u16(name("TurbineOutletTemperature"), "°C", byteF, 0.1, -40))...)
	}
	t.add(0x77, 5, same(1, "°C", 1, -40, "ChargeAirTemperature11", "ChargeAirTemperature12", "ChargeAirTemperature21", "ChargeAirTemperature22")...)
	for bank := range uint8(2) {
		numbered := func(what string, from int) (names []string) {
			for i := range 4 {
				names = append(names, fmt.Sprintf("%s%d%d", what, bank+1, from+i))
			}
			return names
		}
		t.add(0x78+bank, 9, same(2, "°C", 0.1, -40, numbered("ExhaustGasTemperature", 1)...)...)
		t.add(0x98+bank, 9, same(2, "°C", 0.1, -40, numbered("ExhaustGasTemperature", 5)...)...)
		pressure := fmt.Sprint("ParticulateFilter", bank+1)
		t.add(0x7A+bank, 7, whenInOrder(s16(pressure+"DeltaPressure", "kPa", byteB, 0.01), u16(pressure+"InletPressure", "kPa", byteD, 0.01, 0),
			u16(pressure+"OutletPressure", "kPa", byteF, 0.01, 0))...)
	}
	t.add(0x7C, 9, same(2, "°C", 0.1, -40, "ParticulateFilter1InletTemperature", "ParticulateFilter1OutletTemperature",
		"ParticulateFilter2InletTemperature", "ParticulateFilter2OutletTemperature")...)
	t.one(0x7D, "NOxControlArea", "", 1, 0)
	t.one(0x7E, "ParticulateControlArea", "", 1, 0)
	t.add(0x83, 9, same(2, "ppm", 1, 0, "NOx11", "NOx12", "NOx21", "NOx22")...)
	t.one(0x84, "ManifoldSurfaceTemperature", "°C", 1, -40)
	t.add(0x85, 10, whenInOrder(u16("ReagentConsumption", "L/h", byteB, 0.005, 0), u16("ReagentDemand", "L/h", byteD, 0.005, 0),
		u8("ReagentLevel", "%", byteF, percent, 0), u32("NOxWarningTime", "s", byteG, 1))...)
	t.add(0x86, 5, same(2, "mg/m³", 0.0125, 0, "ParticulateMass1", "ParticulateMass2")...)
	t.add(0x8B, 7, whenInOrder(flag("RegenerationInProgress", byteB, 0), flag("RegenerationIsActive", byteB, 1), flag("NOxAdsorberRegeneration", byteB, 2),
		flag("NOxAdsorberDesulfurization", byteB, 3), u8("RegenerationTrigger", "%", byteC, percent, 0),
		u16("RegenerationInterval", "min", byteD, 1, 0), u16("RegenerationDistance", "km", byteF, 1, 0))...)
	for id, names := range map[uint8][4]string{0x8C: {"11", "12", "21", "22"}, 0x9C: {"13", "14", "23", "24"}} {
		var all []string
		for _, what := range []string{"OxygenConcentration", "OxygenLambda"} {
			for _, name := range names {
				all = append(all, what+name)
			}
		}
		fields := same(2, "%", 0.001526, 0, all...)
		for i := range fields[4:] {
			fields[4+i].Unit, fields[4+i].Scale = "", 0.000122
		}
		t.add(id, 17, fields...)
	}
	t.add(0x9B, 4, u8("ReagentTankLevel", "%", byteD, percent, 0))
	t.two(0x9E, "ExhaustFlow", "kg/h", 0.2, 0)
	t.add(0xA1, 9, same(2, "ppm", 1, 0, "NOxCorrected11", "NOxCorrected12", "NOxCorrected21", "NOxCorrected22")...)
	t.add(0xA5, 4, u8("CommandedReagentDosing", "%", byteB, 0.5, 0).when(0))
	for id, length := range map[uint8]uint8{0x81: 41, 0x82: 41, 0x88: 13, 0x89: 41, 0x8A: 41, 0x8F: 7, 0x90: 3, 0x91: 5, 0x92: 2, 0x93: 3, 0x94: 12, 0xA3: 9} {
		t.add(id, length)
	}
}
