//go:build system

package decoded

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"

	"github.com/waybill-telematics/waybill/fleet/decoded/decodedpb"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// TestRegistry: what is framed for a real schema registry is read by Confluent's own client and deserializers, which fetch the schemas
// from it: as many records as the store has rows, with their identities and values.
func TestRegistry(t *testing.T) {
	deps.Folder(t, "confluent")
	url := deps.SchemaRegistry(t)
	for _, format := range []Format{JSON, Proto} {
		t.Run(string(format), func(t *testing.T) {
			b := newBench(t, "fsync = off")
			o := Options{Options: b.stream, Format: format, Registry: &Registry{URL: url}, Poll: 20 * time.Millisecond}
			if format == Proto { // schemas of another kind stand under the same names in the registry
				o.Prefix, b.stream.Prefix = "wb1p", "wb1p"
				b.makeTopics()
			}
			r, err := New(o, b.store)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.store.SwitchOn(context.Background()); err != nil {
				t.Fatal(err)
			}
			for seq := range uint64(4) {
				b.put("car-1", telemetrypb.Lane_LANE_TELEMETRY, seq+1, 12)
				b.put("car-1", telemetrypb.Lane_LANE_EVENT, seq+1, 6)
				b.put("car-1", telemetrypb.Lane_LANE_CONTROL, seq+1, 0)
			}
			ctx, stop := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { defer close(done); _ = r.Run(ctx) }()
			b.empty(time.Minute)
			stop()
			<-done
			descriptor, err := proto.Marshal(protodesc.ToFileDescriptorProto(decodedpb.File_decoded_proto))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "descriptor")
			if err := os.WriteFile(file, descriptor, 0o600); err != nil {
				t.Fatal(err)
			}
			for kind, message := range map[string]string{Samples: "Sample", Events: "Sample", Positions: "Position", Losses: "Loss"} {
				b.topic(kind) // puts marks at the end
				cmd := deps.Confluent(t, "testdata/read.py", b.kafka.Addr, url, b.stream.DecodedTopic(kind), string(format), file, message)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%s: %v\n%s", kind, err, stderr.Bytes())
				}
				b.identities(kind, string(out))
			}
		})
	}
}

// identities compares what others read with the store.
func (b *bench) identities(kind, lines string) {
	b.t.Helper()
	query := map[string]string{
		Samples: "SELECT seq || '/' || lane || '/' || idx || '/' || coalesce(value::text, 'none') FROM readings", Events: "SELECT seq || '/' || lane || '/' || idx || '/' || coalesce(value::text, 'none') FROM readings WHERE lane = 2",
		Positions: "SELECT seq || '/' || lane || '/' || idx || '/' || value FROM readings WHERE name = 'gps0.fix.latitude'",
		Losses:    "SELECT b.seq || '/0/' || l.idx || '/' || l.count FROM losses l JOIN batches b ON b.id = l.batch",
	}[kind]
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, query)
	if err != nil {
		b.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(list) == 0 {
		b.t.Fatalf("%s: %d rows; %v", kind, len(list), err)
	}
	wanted := map[string]bool{}
	for _, k := range list {
		wanted[k] = true
	}
	n := 0
	for line := range strings.Lines(lines) {
		n++
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			b.t.Fatal(err)
		}
		lane := map[string]int{"event": 2, "telemetry": 3}[fmt.Sprint(v["lane"])]
		number := v["value"]
		switch kind {
		case Losses:
			lane, number = 0, v["count"]
		case Positions:
			number = v["latitude"]
		}
		if number == nil {
			number = "none"
		}
		k := fmt.Sprint(v["seq"], "/", lane, "/", v["index"], "/", number)
		if !wanted[k] {
			b.t.Errorf("%s: %s is not in the store, or came twice: %s", kind, k, line)
		}
		delete(wanted, k)
	}
	if len(wanted) > 0 {
		b.t.Errorf("%s: of %d rows %d were not read, such as %v", kind, len(list), len(wanted), list[0])
	}
	b.t.Logf("%s: %d records read by Confluent's client", kind, n)
}
