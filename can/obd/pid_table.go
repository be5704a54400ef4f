package obd

import "fmt"

// pids is the table of mode 01 (SAE J1979, appendix B). It is never written to.
var pids = makePIDs()

func makePIDs() (t table) {
	for id := 0; id < 256; id += 32 {
		t.add(uint8(id), 4) // bitmaps
	}
	addEngine(&t)
	addOxygen(&t)
	addSinceCleared(&t)
	addExtended(&t)
	addExhaust(&t)
	return t
}

// monitors are bytes B to D of PIDs 01 and 41: which self-tests exist, and which are not complete.
func monitors(prefix string) []Field {
	fields := []Field{flag(prefix+"CompressionIgnition", byteB, 3)}
	for bit, name := range []string{"Misfire", "FuelSystem", "Components"} {
		fields = append(fields, flag(prefix+name+"Available", byteB, uint16(bit)), flag(prefix+name+"Incomplete", byteB, uint16(bit)+4))
	}
	// What the other eight are depends on the ignition; J1979 numbers them.
	for bit := range uint16(8) {
		name := fmt.Sprintf("%sTest%d", prefix, bit)
		fields = append(fields, flag(name+"Available", byteC, bit), flag(name+"Incomplete", byteD, bit))
	}
	return fields
}

// addEngine adds 01–12 and 1C–1F.
func addEngine(t *table) {
	t.add(0x01, 4, append([]Field{flag("MIL", byteA, 7), bits("DTCCount", byteA, 6, 7)}, monitors("Monitor")...)...)
	t.two(0x02, "FreezeFrameDTC", "", 1, 0)
	t.add(0x03, 2, u8("FuelSystem1Status", "", byteA, 1, 0), u8("FuelSystem2Status", "", byteB, 1, 0))
	t.one(0x04, "CalculatedEngineLoad", "%", percent, 0)
	t.one(0x05, "EngineCoolantTemperature", "°C", 1, -40)
	for i, name := range []string{"ShortTermFuelTrimBank", "LongTermFuelTrimBank"} {
		for bank := range uint8(2) { // a second byte is there on vehicles with more than two banks
			t.add(0x06+uint8(i)+2*bank, 1, u8(fmt.Sprint(name, bank+1), "%", byteA, trim, -100), u8(fmt.Sprint(name, bank+3), "%", byteB, trim, -100))
		}
	}
	t.one(0x0A, "FuelPressure", "kPa", 3, 0)
	t.one(0x0B, "IntakeManifoldPressure", "kPa", 1, 0)
	t.two(0x0C, "EngineSpeed", "rpm", 0.25, 0)
	t.one(0x0D, "VehicleSpeed", "km/h", 1, 0)
	t.one(0x0E, "TimingAdvance", "°", 0.5, -64)
	t.one(0x0F, "IntakeAirTemperature", "°C", 1, -40)
	t.two(0x10, "MassAirFlow", "g/s", 0.01, 0)
	t.one(0x11, "ThrottlePosition", "%", percent, 0)
	t.one(0x12, "SecondaryAirStatus", "", 1, 0)
	t.one(0x1C, "OBDRequirements", "", 1, 0)
	t.add(0x1E, 1, flag("PowerTakeOffActive", byteA, 0))
	t.two(0x1F, "EngineRunTime", "s", 1, 0)
}

// addOxygen adds what the oxygen sensors say: 13–1B, 1D, 24–2B, 34–3B, 55–58.
func addOxygen(t *table) {
	t.one(0x13, "OxygenSensorsPresent2Banks", "", 1, 0)
	t.one(0x1D, "OxygenSensorsPresent4Banks", "", 1, 0)
	for i := range uint8(8) {
		name := func(what string) string { return fmt.Sprintf("OxygenSensor%d%s", i+1, what) }
		// A trim of FF (99.2 %) says that the sensor has no part in it.
		t.add(0x14+i, 2, u8(name("Voltage"), "V", byteA, 0.005, 0), u8(name("ShortTermFuelTrim"), "%", byteB, trim, -100))
		t.add(0x24+i, 4, u16(name("Lambda"), "", byteA, lambda, 0), u16(name("WideVoltage"), "V", byteC, volts, 0))
		t.add(0x34+i, 4, u16(name("CurrentLambda"), "", byteA, lambda, 0), u16(name("Current"), "mA", byteC, 1.0/256, -128))
	}
	for i, name := range []string{"ShortTermSecondaryTrimBank", "LongTermSecondaryTrimBank"} {
		for bank := range uint8(2) {
			t.add(0x55+uint8(i)+2*bank, 2, u8(fmt.Sprint(name, bank+1), "%", byteA, trim, -100), u8(fmt.Sprint(name, bank+3), "%", byteB, trim, -100))
		}
	}
}

// addSinceCleared adds 21–23, 2C–33, 3C–3F and 41–54.
func addSinceCleared(t *table) {
	t.two(0x21, "DistanceWithMIL", "km", 1, 0)
	t.two(0x22, "FuelRailPressureRelative", "kPa", 0.079, 0)
	t.two(0x23, "FuelRailGaugePressure", "kPa", 10, 0)
	t.one(0x2C, "CommandedEGR", "%", percent, 0)
	t.one(0x2D, "EGRError", "%", trim, -100)
	t.one(0x2E, "CommandedEvaporativePurge", "%", percent, 0)
	t.one(0x2F, "FuelLevel", "%", percent, 0)
	t.one(0x30, "WarmUpsSinceCleared", "", 1, 0)
	t.two(0x31, "DistanceSinceCleared", "km", 1, 0)
	t.add(0x32, 2, s16("EvaporativePressure", "Pa", byteA, 0.25))
	t.one(0x33, "BarometricPressure", "kPa", 1, 0)
	for i, name := range []string{"11", "21", "12", "22"} { // bank, sensor
		t.two(0x3C+uint8(i), "CatalystTemperature"+name, "°C", 0.1, -40)
	}
	t.add(0x41, 4, monitors("CycleMonitor")...)
	t.two(0x42, "ControlModuleVoltage", "V", 0.001, 0)
	t.two(0x43, "AbsoluteLoad", "%", percent, 0)
	t.two(0x44, "CommandedLambda", "", lambda, 0)
	t.one(0x45, "RelativeThrottlePosition", "%", percent, 0)
	t.one(0x46, "AmbientAirTemperature", "°C", 1, -40)
	for i, name := range []string{"ThrottlePositionB", "ThrottlePositionC", "AcceleratorPositionD", "AcceleratorPositionE", "AcceleratorPositionF",
		"CommandedThrottleActuator"} {
		t.one(0x47+uint8(i), name, "%", percent, 0)
	}
	t.two(0x4D, "TimeWithMIL", "min", 1, 0)
	t.two(0x4E, "TimeSinceCleared", "min", 1, 0)
	t.add(0x4F, 4, u8("MaximumLambda", "", byteA, 1, 0), u8("MaximumOxygenSensorVoltage", "V", byteB, 1, 0),
		u8("MaximumOxygenSensorCurrent", "mA", byteC, 1, 0), u8("MaximumIntakeManifoldPressure", "kPa", byteD, 10, 0))
	t.add(0x50, 4, u8("MaximumMassAirFlow", "g/s", byteA, 10, 0))
	t.one(0x51, "FuelType", "", 1, 0)
	t.one(0x52, "EthanolShare", "%", percent, 0)
	t.two(0x53, "EvaporativePressureAbsolute", "kPa", 0.005, 0)
	t.add(0x54, 2, s16("EvaporativePressureWide", "Pa", byteA, 1))
}

// addExtended adds 59–6C and 8D–A6, as far as they are not about exhaust.
func addExtended(t *table) {
	t.two(0x59, "FuelRailAbsolutePressure", "kPa", 10, 0)
	t.one(0x5A, "RelativeAcceleratorPosition", "%", percent, 0)
	t.one(0x5B, "HybridBatteryRemaining", "%", percent, 0)
	t.one(0x5C, "EngineOilTemperature", "°C", 1, -40)
	t.two(0x5D, "FuelInjectionTiming", "°", 1.0/128, -210)
	t.two(0x5E, "EngineFuelRate", "L/h", 0.05, 0)
	t.one(0x5F, "EmissionRequirements", "", 1, 0)
	t.one(0x61, "DemandedTorque", "%", 1, -125)
	t.one(0x62, "ActualTorque", "%", 1, -125)
	t.two(0x63, "ReferenceTorque", "N·m", 1, 0)
	t.add(0x64, 5, u8("TorqueAtIdle", "%", byteA, 1, -125), u8("TorqueAtPoint1", "%", byteB, 1, -125), u8("TorqueAtPoint2", "%", byteC, 1, -125),
		u8("TorqueAtPoint3", "%", byteD, 1, -125), u8("TorqueAtPoint4", "%", byteE, 1, -125))
	t.add(0x65, 2, whenInOrder(flag("PowerTakeOff", byteB, 0), flag("AutomaticInGear", byteB, 1), flag("ManualInGear", byteB, 2), flag("GlowPlugLamp", byteB, 3))...)
	t.add(0x66, 5, same(2, "g/s", perThird, 0, "MassAirFlowA", "MassAirFlowB")...)
	t.add(0x67, 3, same(1, "°C", 1, -40, "EngineCoolantTemperature1", "EngineCoolantTemperature2")...)
	t.add(0x68, 7, same(1, "°C", 1, -40, "IntakeAirTemperature11", "IntakeAirTemperature12", "IntakeAirTemperature13",
		"IntakeAirTemperature21", "IntakeAirTemperature22", "IntakeAirTemperature23")...)
	t.add(0x6A, 5, same(1, "%", percent, 0, "CommandedIntakeAirFlowA", "IntakeAirFlowPositionA", "CommandedIntakeAirFlowB", "IntakeAirFlowPositionB")...)
	t.add(0x6C, 5, same(1, "%", percent, 0, "CommandedThrottleA", "RelativeThrottlePositionA", "CommandedThrottleB", "RelativeThrottlePositionB")...)
	t.add(0x6D, 11, whenInOrder(u16("CommandedFuelRailPressureA", "kPa", byteB, 10, 0), u16("FuelRailPressureA", "kPa", byteD, 10, 0), u8("FuelRailTemperatureA", "°C", byteF, 1, -40),
		u16("CommandedFuelRailPressureB", "kPa", byteG, 10, 0), u16("FuelRailPressureB", "kPa", byteI, 10, 0), u8("FuelRailTemperatureB", "°C", byteJ+1, 1, -40))...)
	t.add(0x6E, 9, same(2, "kPa", 10, 0, "CommandedInjectionPressureA", "InjectionPressureA", "CommandedInjectionPressureB", "InjectionPressureB")...)
	t.add(0x7F, 13, same(4, "s", 1, 0, "TotalEngineRunTime", "TotalIdleRunTime", "TotalPowerTakeOffRunTime")...)
	t.add(0x87, 5, same(2, "kPa", perThird, 0, "IntakeManifoldPressureA", "IntakeManifoldPressureB")...)
	t.one(0x8D, "ThrottlePositionG", "%", percent, 0)
	t.one(0x8E, "FrictionTorque", "%", 1, -125)
	t.add(0x9A, 6, u16("HybridBatteryVoltage", "V", byteC, 1.0/64, 0).when(1), s16("HybridBatteryCurrent", "A", byteE, 0.1).when(2))
	t.add(0x9D, 4, u16("EngineFuelMassRate", "g/s", byteA, 0.02, 0), u16("VehicleFuelMassRate", "g/s", byteC, 0.02, 0))
	names := make([]string, 8)
	for i := range names {
		names[i] = fmt.Sprint("FuelSystemUse", i+1)
	}
	t.add(0x9F, 9, same(1, "%", percent, 0, names...)...)
	t.two(0xA2, "CylinderFuelRate", "mg/stroke", perThird, 0)
	t.add(0xA4, 4, bits("TransmissionGear", byteB, 7, 4).when(0), u16("TransmissionGearRatio", "", byteC, 0.001, 0).when(1))
	t.add(0xA6, 4, u32("Odometer", "km", byteA, 0.1))
}
