package drive

import (
	"math"
	"math/rand/v2"
	"time"
)

// The car: a compact one.
const (
	mass          = 1620.0 // kg, with driver
	dragArea      = 0.66   // drag coefficient × frontal area, m²
	airDensity    = 1.2    // kg/m³
	rolling       = 0.010  // rolling resistance coefficient
	gravity       = 9.81   // m/s²
	wheelRadius   = 0.315  // m
	reduction     = 9.3    // motor turns per wheel turn
	driveline     = 0.92   // efficiency, either way
	maxPower      = 95.0   // kW for acceleration
	auxiliary     = 0.6    // kW
	packEnergy    = 52.0   // kWh
	chargePower   = 48.0   // kW at a charger, up to 80 %
	cellsInSeries = 96
	packResist    = 0.08  // ohm
	packCapacity  = 340e3 // J/K
	motorCapacity = 45e3  // J/K
	outside       = 14.5  // °C
	trackWidth    = 1.55  // m
	steerRatio    = 15.5  // steering wheel to road wheel
	wheelbase     = 2.6   // m
)

// The road begins here, in open country that no map shows it in.
const (
	startLatitude   = 47.9500
	startLongitude  = 9.2500
	startHeading    = 70.0
	baseAltitude    = 612.0
	geoidSeparation = 48.1
	metresPerDegree = 111_320.0
)

const initialOdometer = 18_342_510.0 // m

// state is what the sensors of the car see at one moment.
type state struct {
	speed, acceleration               float64 // m/s, m/s²
	yawRate, heading                  float64 // degrees/s, degrees
	latitude, longitude, altitude     float64
	distance                          float64 // m since the start
	climbed                           float64 // m, on grades
	torque, power                     float64 // Nm and kW at the motor; negative: recuperation
	voltage, current                  float64 // V, A
	charge                            float64 // of 1
	motorTemperature, packTemperature float64 // °C
	accelerator, brake                float64 // %, bar
	gear, chargeState                 float64 // as in the DBC's value tables
	lights, wipers                    float64
	doorLeft, doorRight               float64
	satellites                        int
	dilution                          float64
	imbalance                         [4]float64 // of the cells, V
}

// model moves the car.
type model struct {
	rng    *rand.Rand
	state  state
	target float64 // m/s
	curve  float64 // degrees/m
}

func newModel(seed uint64) *model {
	m := &model{rng: rand.New(rand.NewPCG(seed, 0x57617962696C6C))}
	m.state = state{
		latitude: startLatitude, longitude: startLongitude, heading: startHeading, altitude: baseAltitude,
		charge: 0.70 + 0.25*m.rng.Float64(), motorTemperature: outside + 3, packTemperature: outside + 4,
		satellites: 11, dilution: 0.9,
	}
	for i := range m.state.imbalance {
		m.state.imbalance[i] = 0.004 * m.rng.NormFloat64()
	}
	return m
}

// step advances by one tick.
func (m *model) step(p *phase, at time.Duration) *state {
	s := &m.state
	dt := tick.Seconds()
	into, left := (at - p.from).Seconds(), (p.to - at).Seconds()
	if at%time.Second == 0 { // the driver thinks once a second
		m.target = max(0, p.speed+p.wander*m.rng.NormFloat64())
		if p.speed == 0 {
			m.target = 0
		}
		m.curve += (p.bend*m.rng.NormFloat64() - m.curve) * 0.4
		s.satellites = 9 + m.rng.IntN(5)
		s.dilution = 0.7 + 0.3*m.rng.Float64()
	}
	m.move(p, dt)
	m.energy(p, dt)
	s.gear, s.doorLeft, s.doorRight = 3, 0, 0
	if p.parked {
		s.gear = 0
		// The driver gets in at the beginning and out at the end.
		if s.speed == 0 && (p.from == 0 && into < left || p.from > 0 && into > left) {
			s.doorLeft = 1
		}
	}
	s.lights, s.wipers = 1, 0
	if p.tunnel {
		s.lights = 2
	} else if p.name == "motorway" {
		s.wipers = float64(int(s.distance/900) % 3)
	}
	return s
}

// move is the car on its road.
func (m *model) move(p *phase, dt float64) {
	s := &m.state
	want := (m.target - s.speed) * 0.5
	limit := min(2.6, maxPower*1000/(mass*max(s.speed, 1)))
	if p.speed == 0 {
		limit = 4.5
		want = (m.target-s.speed)*1.2 - 0.3
	}
	want = min(max(want, -4.5), limit)
	s.acceleration += (want - s.acceleration) * min(1, dt*4)
	before := s.speed
	s.speed = max(0, s.speed+s.acceleration*dt)
	if s.speed < 0.02 && m.target == 0 {
		s.speed = 0
	}
	s.acceleration = (s.speed - before) / dt
	travelled := (s.speed + before) / 2 * dt
	s.distance += travelled
	turn := m.curve * travelled
	s.yawRate = turn / dt
	s.heading = math.Mod(s.heading+turn+360, 360)
	sin, cos := math.Sincos(s.heading * math.Pi / 180)
	s.latitude += travelled * cos / metresPerDegree
	s.longitude += travelled * sin / (metresPerDegree * math.Cos(s.latitude*math.Pi/180))
	s.climbed += p.grade * travelled
	s.altitude = baseAltitude + s.climbed + 18*math.Sin(s.distance/1400) + 4*math.Sin(s.distance/310)
}

// energy is the motor, the brakes and the battery.
func (m *model) energy(p *phase, dt float64) {
	s := &m.state
	force := mass * s.acceleration
	if s.speed > 0 {
		force += mass*gravity*rolling + 0.5*airDensity*dragArea*s.speed*s.speed + mass*gravity*p.grade
	}
	s.brake, s.accelerator = 0, 0
	motor := force
	if force < -3200 { // beyond what recuperation gives, the brakes help
		s.brake = (-3200 - force) / 90
		motor = -3200
	}
	if force > 0 {
		s.accelerator = min(100, force/55)
	}
	s.torque = motor * wheelRadius / reduction
	mechanical := motor * s.speed / 1000
	electrical := mechanical / driveline
	s.chargeState = 1
	if mechanical < 0 {
		electrical = mechanical * driveline
		s.chargeState = 2
	}
	if s.speed == 0 {
		s.chargeState = 0
	}
	if p.charging && s.speed == 0 && s.charge < 1 {
		electrical = -chargePower * min(1, max(0.02, (1-s.charge)/0.2)) // constant current, then constant voltage, roughly
		s.chargeState = 3
	}
	s.power = mechanical
	open := cellsInSeries * s.cellVoltage()
	s.current = (electrical + auxiliary) * 1000 / open
	s.voltage = open - s.current*packResist
	s.charge = min(1, max(0, s.charge-(electrical+auxiliary)*dt/3600/packEnergy))
	s.packTemperature += (s.current*s.current*packResist - (s.packTemperature-outside)*35) * dt / packCapacity
	s.motorTemperature += (math.Abs(electrical-mechanical)*1000*0.6 - (s.motorTemperature-outside)*18) * dt / motorCapacity
}

// cellVoltage is the open voltage of an average cell.
func (s *state) cellVoltage() float64 { return 3.30 + 0.85*s.charge - 0.12*s.charge*(1-s.charge) }

// counterSignal is the signal that proves completeness.
const counterSignal = "FrameCounter"

const kmh = 3.6

// values say where the physical value of each signal comes from.
var values = map[string]func(s *state, frame uint64) float64{
	counterSignal:              func(_ *state, frame uint64) float64 { return float64(uint32(frame)) },
	"VehicleSpeed":             func(s *state, _ uint64) float64 { return s.speed * kmh },
	"LongitudinalAcceleration": func(s *state, _ uint64) float64 { return s.acceleration },

	"MotorSpeed":       func(s *state, _ uint64) float64 { return s.speed / wheelRadius * reduction * 60 / (2 * math.Pi) },
	"MotorTorque":      func(s *state, _ uint64) float64 { return s.torque },
	"MotorPower":       func(s *state, _ uint64) float64 { return s.power },
	"MotorTemperature": func(s *state, _ uint64) float64 { return s.motorTemperature },

	"WheelSpeedFrontLeft":  func(s *state, _ uint64) float64 { return s.wheel(-1) },
	"WheelSpeedFrontRight": func(s *state, _ uint64) float64 { return s.wheel(1) },
	"WheelSpeedRearLeft":   func(s *state, _ uint64) float64 { return s.wheel(-0.98) },
	"WheelSpeedRearRight":  func(s *state, _ uint64) float64 { return s.wheel(0.98) },

	"SteeringAngle": func(s *state, _ uint64) float64 { return s.steering() },
	"YawRate":       func(s *state, _ uint64) float64 { return s.yawRate },

	"AcceleratorPosition": func(s *state, _ uint64) float64 { return s.accelerator },
	"BrakePressure":       func(s *state, _ uint64) float64 { return s.brake },
	"Gear":                func(s *state, _ uint64) float64 { return s.gear },
	"DriveMode":           func(*state, uint64) float64 { return 1 },

	"PackVoltage":     func(s *state, _ uint64) float64 { return s.voltage },
	"PackCurrent":     func(s *state, _ uint64) float64 { return s.current },
	"StateOfCharge":   func(s *state, _ uint64) float64 { return s.charge * 100 },
	"PackTemperature": func(s *state, _ uint64) float64 { return s.packTemperature },
	"ChargeState":     func(s *state, _ uint64) float64 { return s.chargeState },
	"Range":           func(s *state, _ uint64) float64 { return s.charge * packEnergy / 0.155 },

	"CellGroup":        func(_ *state, frame uint64) float64 { return float64(frame & 1) },
	"CellVoltage1":     func(s *state, _ uint64) float64 { return s.cell(0) },
	"CellVoltage2":     func(s *state, _ uint64) float64 { return s.cell(1) },
	"CellVoltage3":     func(s *state, _ uint64) float64 { return s.cell(2) },
	"CellVoltage4":     func(s *state, _ uint64) float64 { return s.cell(3) },
	"GroupTemperature": func(s *state, frame uint64) float64 { return s.packTemperature + float64(frame&1) },

	"DoorFrontLeft":      func(s *state, _ uint64) float64 { return s.doorLeft },
	"DoorFrontRight":     func(s *state, _ uint64) float64 { return s.doorRight },
	"Lights":             func(s *state, _ uint64) float64 { return s.lights },
	"Wipers":             func(s *state, _ uint64) float64 { return s.wipers },
	"OutsideTemperature": func(s *state, _ uint64) float64 { return outside - (s.altitude-baseAltitude)*0.0065 },
	"Odometer":           func(s *state, _ uint64) float64 { return (initialOdometer + s.distance) / 1000 },
}

// wheel is the speed of a wheel in km/h; side is −1 at the left, 1 at the right.
func (s *state) wheel(side float64) float64 {
	return max(0, s.speed-side*s.yawRate*math.Pi/180*trackWidth/2) * kmh
}

// steering is the angle of the steering wheel, degrees.
func (s *state) steering() float64 {
	if s.speed < 0.1 {
		return 0
	}
	return math.Atan(s.yawRate*math.Pi/180/s.speed*wheelbase) * 180 / math.Pi * steerRatio
}

// cell is the voltage of one cell under load.
func (s *state) cell(i int) float64 { return s.voltage/cellsInSeries + s.imbalance[i] }
