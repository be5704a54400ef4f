package main

import (
	"math"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/j1939"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// j1939Every is the shortest time between two samples of one source address and group: an address whose payload changes
// with every frame costs one sample a second.
const j1939Every = int64(time.Second)

// j1939Group is a parameter group that is listened to where nodes speak J1939, whatever the DBC files know of it.
type j1939Group struct {
	pgn     uint32
	signal  string // behind BUS.J1939.
	length  int    // bytes of a payload at most
	comment string
	text    func(address uint8, payload []byte) (string, error) // of a sample
}

// j1939Groups are all of them.
var j1939Groups = [...]j1939Group{
	{j1939.GroupDM1, "ActiveFaults", 255 * 7, "DM1: active trouble codes and lamps of one source address, JSON", faultsText},
	{j1939.GroupDM2, "PreviousFaults", 255 * 7, "DM2: previously active trouble codes and lamps of one source address, JSON", faultsText},
	{j1939.GroupAddressClaimed, "Address", can.MaxClassicLen, "address claimed: the NAME of the node behind one source address, JSON", nameText},
}

// j1939Feature offers trouble codes and node names of a bus that speaks J1939 or NMEA 2000 (docs/J1939.md).
type j1939Feature struct {
	bus string
	ids [len(j1939Groups)]uint32 // of the samples; 0: not collected
}

// speaksJ1939 reports whether a bus is J1939 by its configuration or by the messages of its DBC files.
func speaksJ1939(bus canSettings, databases []*can.Database) bool {
	if bus.J1939 {
		return true
	}
	for _, db := range databases {
		for _, m := range db.Messages {
			if m.J1939 && m.Extended {
				return true
			}
		}
	}
	return false
}

func (j *j1939Feature) name(group int) string { return j.bus + ".J1939." + j1939Groups[group].signal }

func (j *j1939Feature) signals() []*telemetrypb.Signal {
	var list []*telemetrypb.Signal
	for i, g := range j1939Groups {
		list = append(list, &telemetrypb.Signal{
			Name: j.name(i), Type: telemetrypb.ValueType_VALUE_TYPE_STRING, Source: "can:" + j.bus, Comment: g.comment,
		})
	}
	return list
}

func (j *j1939Feature) choose(id func(name string) (uint32, bool)) {
	for i := range j1939Groups {
		j.ids[i], _ = id(j.name(i))
	}
}

func (j *j1939Feature) attach(bus *canSource) (tap, []reader) {
	t := &j1939Tap{ids: j.ids, source: bus.lossName(), ledger: bus.pipe.Ledger()}
	t.due.Store(math.MaxInt64)
	var subscriptions []can.Subscription
	for i, id := range j.ids {
		t.pgns[i] = noPGN
		if id == 0 {
			continue
		}
		g := j1939Groups[i]
		t.pgns[i] = g.pgn
		const priority, anySource = 6 << 26, 0xFE // the identifier stands for its PGN only
		subscriptions = append(subscriptions, can.Subscription{Message: &can.Message{
			Name: g.signal, ID: priority | g.pgn<<8 | anySource, Extended: true, J1939: true, Length: g.length,
		}})
	}
	if subscriptions == nil {
		return nil, nil
	}
	t.plan = can.Compile(subscriptions, can.PlanOptions{})
	for _, f := range t.plan.Filters() {
		t.format[uint8(f.ID>>16)] = true
	}
	t.parts = can.NewReassembler(t.plan, can.ReassemblerOptions{OnIncomplete: func(id uint32, why can.Reason) {
		// What the bus's own plan puts together as well, it counts as well.
		if !bus.plan.Assembles(id) {
			t.ledger.Add(telemetrypb.LossReason_LOSS_UNDECODABLE, t.source, "messages", 1, why.String())
		}
	}})
	if bus.Replay != nil {
		return t, nil // its clock is that of its frames
	}
	late := bus.pipe.Source(bus.lossName(), 4)
	return t, []reader{{"j1939 " + bus.Bus, bus.often(time.Second, func() { t.tell(bus.clock.Boot(), late) })}}
}
