package main

import (
	"net"
	"os"
	"strconv"
	"testing"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/firmware/probation"
)

// What the kernel has for a reader is seen without it: frames that its filters let through, none of those that nobody asked
// for, and all of a bus where there are no filters. Build machines have no vcan: test/vm runs this in a guest.
func TestVcanHealthOfABus(t *testing.T) {
	if _, err := net.InterfaceByName("vcan0"); err != nil {
		if os.Getenv("WAYBILL_VM") == "1" {
			t.Fatal(err)
		}
		t.Skip("no vcan0 here; test/vm runs this in a guest kernel")
	}
	w, err := can.NewWriter("vcan0")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	send := func(f can.Frame) {
		if err := w.Send(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	sff, eff := can.Compile(subscribe(t, 256), can.PlanOptions{}).Filters(), can.Compile(subscribe(t, 0x80000000|0x18FEF100), can.PlanOptions{}).Filters()
	for name, filters := range map[string][]can.Filter{"filtered": append(sff, eff...), "everything": nil} {
		t.Run(name, func(t *testing.T) {
			reader, err := can.Open("vcan0", can.ReaderOptions{Filters: filters})
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			bus := &canSource{canSettings: canSettings{Bus: "can0", Interface: "vcan0"}}
			bus.counts.filtered.Store(filters != nil)
			bus.counts.open(reader)
			b := &busHealth{bus: bus}
			expect := func(when string, reads, traffic bool) {
				t.Helper()
				if s := b.look(nil); s != (probation.Source{Name: "can:can0", Reads: reads, Traffic: traffic}) {
					t.Errorf("%s: %+v", when, s)
				}
			}
			if !b.begun() {
				t.Error("it is open")
			}
			b.look(nil) // of what other tests sent
			expect("silence", false, false)
			send(can.Frame{ID: 0x400, Len: 1})
			expect("a frame that nobody asked for", false, filters == nil)
			send(can.Frame{ID: 256, Len: 1})
			expect("a frame that is not read", false, true)
			send(can.Frame{ID: 0x18FEF100, Len: 1, Flags: can.FlagExtended})
			expect("a long one", false, true)
			buf := make([]can.Frame, 8)
			if n, _, err := reader.Read(buf); err != nil || n == 0 {
				t.Fatal(n, err)
			}
			expect("read at last", true, false)
		})
	}
}

// subscribe is a plan's interest in a message of an id, as DBC files have it.
func subscribe(t *testing.T, id uint32) []can.Subscription {
	t.Helper()
	db := can.ParseDBC([]byte("VERSION \"\"\nBU_: E\nBO_ " + strconv.FormatUint(uint64(id), 10) + " M: 1 E\n SG_ S : 0|8@1+ (1,0) [0|255] \"\" E\n"))
	if len(db.Messages) != 1 {
		t.Fatal(db.Warnings)
	}
	return []can.Subscription{{ID: 1, Message: db.Messages[0], Signal: db.Messages[0].Signals[0]}}
}
