package drive

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// seen is what the bus and the receiver said over a drive, decoded.
type seen struct {
	series map[string][]float64 // by signal
	speed  []float64            // of the receiver, knots
	height []float64            // of the receiver, m
	phases []string
}

func watch(t *testing.T, o Options) (x seen, s Summary) {
	t.Helper()
	_, plan, signals := compile(t)
	x.series = map[string][]float64{}
	_, s = whole(t, o, func(e Event) {
		switch {
		case e.Phase != "":
			x.phases = append(x.phases, e.Phase)
		case e.Frame != nil:
			for _, sample := range plan.Decode(e.Frame, nil) {
				signal := signals[sample.Signal]
				x.series[signal.Name] = append(x.series[signal.Name], sample.Physical(signal.Scale, signal.Offset))
			}
		case e.Sentences != nil:
			fields := strings.Split(string(e.Sentences), ",")
			var metres float64
			if _, err := fmt.Sscan(fields[9], &metres); err == nil { // GGA's altitude
				x.height = append(x.height, metres)
			}
		}
	})
	return x, s
}

func mean(list []float64) (sum float64) {
	for _, v := range list {
		sum += v
	}
	return sum / float64(len(list))
}

// Each scenario is what its name says, by what is on its bus.
func TestScenarios(t *testing.T) {
	drives := map[string]seen{}
	for _, name := range Scenarios() {
		x, s := watch(t, Options{Seed: 2, Start: start, Duration: 2 * time.Minute, Scenario: name})
		drives[name] = x
		if s.LastCounter != 12000 || s.Epochs != 120 {
			t.Errorf("%s: %d counted, %d epochs", name, s.LastCounter, s.Epochs)
		}
		if gear := x.series["Gear"][0]; gear != 0 {
			t.Errorf("%s begins in gear %v", name, gear)
		}
	}
	of := func(name, signal string) []float64 { return drives[name].series[signal] }
	if city, motorway := mean(of("city", "VehicleSpeed")), mean(of("motorway", "VehicleSpeed")); city < 15 || city > 50 || motorway < 95 {
		t.Errorf("mean speeds: city %.0f km/h, motorway %.0f", city, motorway)
	}
	if turns, straight := slices.Max(of("city", "SteeringAngle")), slices.Max(of("motorway", "SteeringAngle")); turns < 2*straight && turns < 20 {
		t.Errorf("steering: city %.0f°, motorway %.0f°", turns, straight)
	}
	if h := drives["mountain"].height; slices.Max(h)-h[0] < 25 || slices.Max(h)-h[len(h)-1] < 15 {
		t.Errorf("the mountain is %.0f m up and %.0f m down", slices.Max(h)-h[0], slices.Max(h)-h[len(h)-1])
	}
	if up, flat := mean(of("mountain", "MotorTorque")[750:2750]), mean(of("city", "MotorTorque")[750:2750]); up < 2*math.Abs(flat) {
		t.Errorf("torque uphill %.0f Nm, in the city %.0f", up, flat)
	}
	if v := of("parked", "VehicleSpeed"); slices.Max(v) != 0 || slices.Max(of("parked", "Gear")) != 0 {
		t.Error("the parked car moves")
	}
	charge, state := of("charging", "StateOfCharge"), of("charging", "ChargeState")
	if charge[len(charge)-1]-charge[0] < 2 || !slices.Contains(state, 3) || slices.Max(of("charging", "VehicleSpeed")) != 0 || slices.Min(of("charging", "PackCurrent")) > -80 {
		t.Errorf("charging: from %.1f to %.1f %%, states %v", charge[0], charge[len(charge)-1], slices.Compact(state))
	}
	if !slices.IsSorted(charge[60 : len(charge)-60]) {
		t.Error("the charge falls at the charger")
	}
	x, s := watch(t, Options{Seed: 2, Start: start, Duration: 2 * time.Minute, Scenario: "tunnel"})
	if len(s.Tunnels) != 1 || s.Tunnels[0].To-s.Tunnels[0].From != 48*time.Second || s.Fixes != 72 || !slices.Contains(x.phases, "tunnel") {
		t.Errorf("tunnels %v, %d fixes", s.Tunnels, s.Fixes)
	}
}

// A fault shows where it stands and nowhere else, and the rest of the drive is the same.
func TestFaults(t *testing.T) {
	o := Options{Seed: 4, Start: start, Duration: time.Minute, Scenario: "city", Faults: []Fault{
		{Kind: GPSLoss, From: 5 * time.Second, For: 4 * time.Second},
		{Kind: GPSJump, From: 20 * time.Second, For: 3 * time.Second, Metres: 20000},
		{Kind: BusOff, From: 30 * time.Second, For: 5 * time.Second},
		{Kind: DeadZone, From: 40 * time.Second, For: 10 * time.Second},
	}}
	var classes []uint32
	var network []string
	var latitudes []float64
	silent := 0
	_, s := whole(t, o, func(e Event) {
		second := e.At.Seconds()
		switch {
		case e.Network != "":
			network = append(network, fmt.Sprint(e.Network, " ", e.At))
		case e.Frame != nil && e.Frame.Flags&can.FlagError != 0:
			classes = append(classes, e.Frame.ID)
		case e.Frame != nil:
			if second >= 30 && second < 35 {
				silent++
			}
		case e.Sentences != nil:
			if e.Fix == (second >= 5 && second < 9) {
				t.Errorf("at %.1f s: fix %v", second, e.Fix)
			}
			var degrees float64
			if fields := strings.Split(string(e.Sentences), ","); fields[2] != "" {
				if _, err := fmt.Sscan(fields[2], &degrees); err != nil {
					t.Fatal(err)
				}
				degrees = math.Floor(degrees/100) + math.Mod(degrees, 100)/60
				if jumped := second >= 20 && second < 23; jumped != (degrees > 48.05) {
					t.Errorf("at %.1f s: latitude %.3f", second, degrees)
				}
				latitudes = append(latitudes, degrees)
			}
		}
	})
	if silent != 0 || !slices.Equal(classes, []uint32{0x40, 0x100}) { // linux/can/error.h: CAN_ERR_BUSOFF, CAN_ERR_RESTARTED
		t.Errorf("%d frames while the bus was off, error frames %#x", silent, classes)
	}
	if want := []string{"dead 40s", "back 50s"}; !slices.Equal(network, want) {
		t.Errorf("network %q, want %q", network, want)
	}
	if s.LastCounter != 5500 || s.Frames != 55*322 {
		t.Errorf("%+v: a frame that was not sent is counted", s)
	}
	plain := o
	plain.Faults = nil
	if _, whole := watch(t, plain); whole.Distance != s.Distance {
		t.Errorf("%v m with faults, %v without", s.Distance, whole.Distance)
	}
}

func TestParseFault(t *testing.T) {
	for text, want := range map[string]Fault{
		"gps-loss 10s": {Kind: GPSLoss, For: 10 * time.Second}, "gps-jump 1m -300": {Kind: GPSJump, For: time.Minute, Metres: -300},
		" bus-off  5s ": {Kind: BusOff, For: 5 * time.Second}, "dead-zone 2h": {Kind: DeadZone, For: 2 * time.Hour},
	} {
		if f, err := ParseFault(text); err != nil || f != want {
			t.Errorf("%q: %+v, %v", text, f, err)
		}
	}
	for _, text := range []string{"", "gps-loss", "bus-off x", "flood 3s", "gps-jump 3s", "gps-jump 3s NaN", "bus-off 5s 3", "dead-zone 0s", "dead-zone 30h", "gps-jump 1s 2 3"} {
		if f, err := ParseFault(text); err == nil {
			t.Errorf("%q: %+v", text, f)
		}
	}
}
