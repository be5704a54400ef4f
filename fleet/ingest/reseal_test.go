package ingest

import (
	"hash/crc32"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// reseal changes the envelope of a batch and gives it a checksum that holds: what a newer agent might send.
func reseal(t testing.TB, batch []byte, change func(*telemetrypb.Envelope)) []byte {
	t.Helper()
	view := mustOpen(t, batch)
	body := view.Body
	e := proto.Clone(view.Envelope).(*telemetrypb.Envelope)
	change(e)
	e.Crc32C = 0
	head, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Update(0, table, head), table, body)
	head = protowire.AppendFixed32(protowire.AppendTag(head, 31, protowire.Fixed32Type), sum)
	out := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), head)
	return protowire.AppendBytes(protowire.AppendTag(out, 2, protowire.BytesType), body)
}
