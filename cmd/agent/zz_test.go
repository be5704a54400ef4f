package main
import ("testing";"context";"fmt";"os";"math/rand/v2";"encoding/binary";"strings";"path/filepath";"time"
"github.com/waybill-telematics/waybill/can";"github.com/waybill-telematics/waybill/pipeline";"github.com/waybill-telematics/waybill/pipeline/pipelinetest")
func TestZZ(t *testing.T) {
	var text strings.Builder
	for i := range 100 { fmt.Fprintf(&text, `BO_ %d Mixed%d: 8 X
 SG_ A : 0|8@1+ (1,0) [0|255] "" X
 SG_ B : 8|12@1- (0.1,-40) [-245|165] "" X
 SG_ C : 20|4@1+ (1,0) [0|15] "" X
 SG_ D : 31|10@0+ (0.25,0) [0|256] "" X
 SG_ E : 37|6@0- (1,0) [-32|31] "" X
 SG_ F : 40|1@1+ (1,0) [0|1] "" X
 SG_ G : 55|12@0+ (0.5,10) [10|2058] "" X
 SG_ H : 56|4@1- (1,0) [-8|7] "" X
`, 0x100+i, i) }
	dir := t.TempDir(); os.WriteFile(filepath.Join(dir,"a.dbc"), []byte(text.String()), 0o600)
	v, err := newVehicle(&settings{CAN: []canSettings{{Bus:"can0", DBC: []string{filepath.Join(dir,"a.dbc")}}}, Collect: []pipeline.Collect{{Match:"*",OnChange:true}}})
	if err != nil { t.Fatal(err) }
	p, err := pipeline.New(pipeline.Options{Tenant:"t",Device:"d",BootID:[16]byte{1}, CommitEvery: 100*time.Millisecond}, v.selection, pipelinetest.NewQueue(1))
	if err != nil { t.Fatal(err) }
	c := &canSource{plan: v.plans[0], changes: v.plans[0].NewChanges(), source: p.Source("can:can0", 64)}
	c.parts = can.NewReassembler(c.plan, can.ReassemblerOptions{})
	ctx, cancel := context.WithCancel(t.Context()); done := make(chan error,1)
	go func(){ done <- p.Run(ctx) }()
	var pl [100]uint64; r := rand.New(rand.NewPCG(1,2)); f := can.Frame{Len:8}; at := int64(1e9)
	b := time.Now()
	const N = 400000
	for n := 0; n < N; { chunk := c.source.Chunk()
		for range 40 { i := n%100; pl[i] ^= r.Uint64()|1<<0 | 1<<8 | 1<<20 | 1<<38 | 1<<32 | 1<<40 | 1<<60 | 1<<56
		 f.ID=0x100+uint32(i); binary.LittleEndian.PutUint64(f.Data[:],pl[i]); at+=250000; f.Time=at; chunk.Samples=c.decode(&f,chunk.Samples); n++ }
		if err := c.source.Send(ctx, chunk); err != nil { t.Fatal(err) } }
	cancel(); <-done
	t.Log(time.Since(b)/N)
}
