// Package scale does the arithmetic of docs/SCALE.md: from what was measured and what is assumed to what a fleet needs. A
// test writes the document's tables, and holds them to it.
package scale

import (
	"fmt"
	"math"
	"strings"
)

// Vehicle is what one vehicle does. All of it is assumed; it is where to put one's own figures.
type Vehicle struct {
	Name     string
	Rate     float64 // samples a second while it drives
	Hours    float64 // that it drives a day
	Seal     float64 // s between two batches
	Weight   float64 // bytes of a payload a sample; measured for batches of that many samples (docs/BENCHMARKS.md)
	Overhead float64 // bytes a batch: heads of TCP/IP, TLS and MQTT, acknowledgement and receipt
}

// Measured are the figures that were.
type Measured struct {
	FleetCore    float64 // samples a second of one core of waybill-fleet: the bar, which is a third of what was measured with large batches
	DatabaseCore float64 // likewise of one core of PostgreSQL's (docs/STORE.md, the middle)
	ProducerCore float64 // records a second of one core into Kafka (docs/KAFKA.md, 1 KiB)
	Row          float64 // bytes a sample in PostgreSQL, indexes included
}

// Prices are assumed, US dollars: list prices of large clouds are about so, and negotiated ones lower.
type Prices struct {
	Core   float64 // a month, with its memory
	Disk   float64 // a GB and month on SSD
	Object float64 // likewise in an object store
	Mobile float64 // a MB over the mobile network
}

// What is assumed of all fleets.
const (
	days        = 30
	peakShare   = 0.2 // of the vehicles drive at the busiest hour
	statusEvery = 60  // s
	kafkaDays   = 7   // retention
	kafkaCopies = 3
	hotDays     = 30 // in PostgreSQL
	hotCopies   = 2  // primary and one standby
	coldMonths  = 12 // of payloads as they came, in an object store
)

// Vehicles are three kinds.
func Vehicles() []Vehicle {
	return []Vehicle{
		{"light: positions, charge, a few states", 10, 1, 30, 1.4, 300},
		{"typical: 100 samples a second", 100, 1.5, 5, 1.1, 300},
		{"test fleet: most of three buses", 2000, 8, 5, 0.6, 300},
	}
}

// Figures that were measured, and the prices.
func Figures() (Measured, Prices) {
	return Measured{FleetCore: 516_000, DatabaseCore: 235_000, ProducerCore: 90_000, Row: 110}, Prices{Core: 30, Disk: 0.10, Object: 0.023, Mobile: 0.005}
}

// Month is what a vehicle makes in a month.
type Month struct{ Samples, Batches, Payload, Wire, Hot float64 } // the last three in bytes

// Month of a vehicle.
func (v Vehicle) Month(m Measured) Month {
	seconds := v.Hours * 3600 * days
	o := Month{Samples: v.Rate * seconds, Batches: seconds / v.Seal}
	o.Payload = o.Samples * v.Weight
	o.Wire = o.Payload + o.Batches*v.Overhead
	o.Hot = o.Samples * m.Row * hotDays / days
	return o
}

// Fleet is what a number of such vehicles needs.
type Fleet struct {
	Vehicles, Connections, Messages, Statuses float64 // the last three at the busiest hour; messages a second
	Peak, Mean                                float64 // samples a second
	FleetCores, DatabaseCores, MeanCores      float64 // at the peak; the last: PostgreSQL's, where Kafka evens out the day
	Partitions                                int
	KafkaRate, KafkaDisk, HotDisk, ColdDisk   float64 // bytes a second at the peak; bytes
}

// Fleet of n vehicles.
func (v Vehicle) Fleet(n float64, m Measured) Fleet {
	month := v.Month(m)
	f := Fleet{Vehicles: n, Connections: n * peakShare}
	f.Statuses = f.Connections / statusEvery
	f.Messages = f.Connections/v.Seal + f.Statuses
	f.Peak, f.Mean = f.Connections*v.Rate, n*v.Rate*v.Hours/24
	f.FleetCores, f.DatabaseCores, f.MeanCores = f.Peak/m.FleetCore, f.Peak/m.DatabaseCore, f.Mean/m.DatabaseCore
	f.Partitions = 12 // the least; then twice as many as cores take, in dozens
	f.Partitions *= max(1, int(math.Ceil(2*f.FleetCores/12)))
	f.KafkaRate = f.Connections * v.Rate * v.Weight
	f.KafkaDisk = n * month.Payload * kafkaDays / days * kafkaCopies
	f.HotDisk = n * month.Hot * hotCopies
	f.ColdDisk = n * month.Payload * coldMonths
	return f
}

// Money of a vehicle and month, US dollars.
type Money struct{ Mobile, Cores, Kafka, Hot, Cold float64 }

// Money of a vehicle in a fleet of n: cores as the peak wants them, fleet and PostgreSQL with one standby.
func (v Vehicle) Money(n float64, m Measured, p Prices) Money {
	f := v.Fleet(n, m)
	return Money{
		Mobile: v.Month(m).Wire / 1e6 * p.Mobile,
		Cores:  (f.FleetCores + hotCopies*f.DatabaseCores) / n * p.Core,
		Kafka:  f.KafkaDisk / n / 1e9 * p.Disk,
		Hot:    f.HotDisk / n / 1e9 * p.Disk,
		Cold:   f.ColdDisk / n / 1e9 * p.Object,
	}
}

// Tables by the names under which the document has them.
func Tables() map[string]string {
	m, p := Figures()
	var vehicles, fleets, money strings.Builder
	vehicles.WriteString("| vehicle | samples/s, h a day, seal_every | samples | batches | payload | over the air | in PostgreSQL |\n|---|---|---|---|---|---|---|\n")
	money.WriteString("| vehicle | mobile data | cores | Kafka, 7 days | PostgreSQL, 30 days | payloads, a year | all | with 3 days in PostgreSQL |\n|---|---|---|---|---|---|---|---|\n")
	for _, v := range Vehicles() {
		o, d := v.Month(m), v.Money(1e5, m, p)
		fmt.Fprintf(&vehicles, "| %s | %s, %s, %s s | %s | %s | %s | %s | %s |\n", v.Name, number(v.Rate), number(v.Hours), number(v.Seal), number(o.Samples), number(o.Batches),
			bytes(o.Payload), bytes(o.Wire), bytes(o.Hot))
		all := d.Mobile + d.Cores + d.Kafka + d.Hot + d.Cold
		fmt.Fprintf(&money, "| %s | %s | %s | %s | %s | %s | **%s** | %s |\n", v.Name, dollars(d.Mobile), dollars(d.Cores), dollars(d.Kafka), dollars(d.Hot), dollars(d.Cold), dollars(all), dollars(all-d.Hot*0.9))
	}
	var list []Fleet
	for _, n := range []float64{1e3, 1e5, 1e7} {
		list = append(list, Vehicles()[1].Fleet(n, m))
	}
	row := func(name string, value func(f Fleet) string) {
		fmt.Fprintf(&fleets, "| %s |", name)
		for _, f := range list {
			fmt.Fprintf(&fleets, " %s |", value(f))
		}
		fleets.WriteString("\n")
	}
	row("typical vehicles", func(f Fleet) string { return number(f.Vehicles) })
	fleets.WriteString("|---|---|---|---|\n")
	row("connections at the busiest hour", func(f Fleet) string { return number(f.Connections) })
	row("messages/s up (statuses of them)", func(f Fleet) string { return number(f.Messages) + " (" + number(f.Statuses) + ")" })
	row("samples/s, busiest hour (mean of the day)", func(f Fleet) string { return number(f.Peak) + " (" + number(f.Mean) + ")" })
	row("cores of waybill-fleet", func(f Fleet) string { return number(f.FleetCores) })
	row("cores of PostgreSQL (if Kafka evens out the day)", func(f Fleet) string { return number(f.DatabaseCores) + " (" + number(f.MeanCores) + ")" })
	row("cores to write Kafka", func(f Fleet) string { return number(f.Messages / m.ProducerCore) })
	row("Kafka's partitions", func(f Fleet) string { return fmt.Sprint(f.Partitions) })
	row("into Kafka", func(f Fleet) string { return bytes(f.KafkaRate) + "/s" })
	row("Kafka's disks, 7 days, 3 copies", func(f Fleet) string { return bytes(f.KafkaDisk) })
	row("PostgreSQL's disks, 30 days, 2 copies", func(f Fleet) string { return bytes(f.HotDisk) })
	row("payloads in an object store, a year", func(f Fleet) string { return bytes(f.ColdDisk) })
	return map[string]string{"vehicles": vehicles.String(), "fleets": fleets.String(), "money": money.String()}
}

// number has two or three digits that count.
func number(x float64) string {
	for _, s := range []struct {
		unit float64
		name string
	}{{1e9, " G"}, {1e6, " M"}, {1e3, " k"}} {
		if x >= s.unit {
			return digits(x/s.unit) + s.name
		}
	}
	return digits(x)
}

func digits(x float64) string {
	switch {
	case x >= 99.95:
		return fmt.Sprintf("%.0f", x)
	case x >= 9.995 || x == math.Trunc(x):
		return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0")
	}
	return strings.TrimSuffix(fmt.Sprintf("%.2f", x), "0")
}

func bytes(x float64) string {
	for _, s := range []struct {
		unit float64
		name string
	}{{1e15, " PB"}, {1e12, " TB"}, {1e9, " GB"}, {1e6, " MB"}} {
		if x >= s.unit {
			return digits(x/s.unit) + s.name
		}
	}
	return digits(x/1e3) + " kB"
}

func dollars(x float64) string { return fmt.Sprintf("$%.3f", x) }
