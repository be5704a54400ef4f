package can_test

import (
	"fmt"
	"testing"

	"github.com/waybill-telematics/waybill/can"
)

// What reading a frame costs that waits in the socket: in batches of 64, and one at a time.
func BenchmarkVcanRead(b *testing.B) {
	const count = 2000 // of a buffer that holds some 5,000
	for _, want := range []int{64, 1} {
		b.Run(fmt.Sprint(want), func(b *testing.B) {
			name := vcan(b)
			r, err := can.Open(name, can.ReaderOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			w, err := can.NewWriter(name)
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			buf := make([]can.Frame, want)
			b.ReportAllocs()
			for range b.N {
				b.StopTimer()
				for i := range count {
					if err := w.Send(b.Context(), &can.Frame{ID: uint32(i), Len: 8}); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				for got := 0; got < count; {
					n, drops, err := r.Read(buf)
					if err != nil || drops > 0 {
						b.Fatal(drops, err)
					}
					got += n
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*count), "ns/frame")
		})
	}
}
