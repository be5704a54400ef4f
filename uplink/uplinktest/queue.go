package uplinktest

import (
	"fmt"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Queue is a queue with a vehicle's name: it seals what it is given.
type Queue struct {
	buffertest.Queue
	tenant string
	device string
}

// NewQueue makes an empty queue in memory.
func NewQueue(tenant, device string, epoch uint64) (*Queue, error) {
	q, err := buffertest.NewDisk(epoch, 0).Open()
	if err != nil {
		return nil, fmt.Errorf("test queue: %w", err)
	}
	return Name(q, tenant, device), nil
}

// Name gives any queue a vehicle's name.
func Name(q buffertest.Queue, tenant, device string) *Queue {
	return &Queue{Queue: q, tenant: tenant, device: device}
}

// Add seals samples into a batch under the lane's next number and commits it. A control batch gets a record of its
// own in their place.
func (q *Queue) Add(l telemetrypb.Lane, h telemetrypb.Head, samples []telemetrypb.Sample) (buffer.Record, error) {
	rec := buffer.Record{Lane: buffer.Lane(l), Samples: uint32(len(samples))}
	rec.Seq = q.Reserve(rec.Lane)
	h.Tenant, h.Device, h.Epoch, h.Lane, h.Seq = q.tenant, q.device, q.Epoch(), l, rec.Seq
	var err error
	if l == telemetrypb.Lane_LANE_CONTROL {
		rec.Samples = 1
		rec.Bytes, err = telemetrypb.AppendControl(nil, &h, &telemetrypb.Records{Records: []*telemetrypb.Record{
			{Record: &telemetrypb.Record_Loss{Loss: &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_OVERLOAD, Count: h.Seq}}},
		}})
	} else {
		rec.Bytes, err = telemetrypb.AppendBatch(nil, &h, samples)
	}
	if err == nil {
		err = q.Commit([]buffer.Record{rec}, nil)
	}
	if err != nil {
		return rec, fmt.Errorf("test queue: %w", err)
	}
	return rec, nil
}

// Len is how many batches are held, all lanes together.
func (q *Queue) Len() int {
	n := 0
	for _, l := range q.Stats().Lanes {
		n += int(l.Batches)
	}
	return n
}
