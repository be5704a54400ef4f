package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/stream"
)

// shareFigures are this process's part of what several share: slots of the subscription, and partitions of Kafka's topic.
// Either may be nil: then there is nothing of it.
func shareFigures(slots *ingest.Slots, kafka *stream.Consumer) []figure {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	var list []figure
	if slots != nil {
		list = append(list, figure{"slots", "Slots of the shared subscription that are connected here.", gauge, float64(len(slots.Running()))})
	}
	if kafka == nil {
		return list
	}
	partitions, lag := kafka.Partitions(), int64(0)
	for _, p := range partitions {
		lag += max(0, p.End-p.Position) // End is -1 where nothing has come yet
	}
	n := kafka.Counts()
	return append(list,
		figure{"kafka_partitions", "Partitions of Kafka's raw topic that are assigned here.", gauge, float64(len(partitions))},
		figure{"kafka_lag", "Records of those partitions that the store has not taken, as of when something last came.", gauge, float64(lag)},
		figure{"kafka_records_total", "Records taken, since the start.", counter, float64(n.Records)},
		figure{"kafka_lost_total", "Offsets that the topic no longer had when the store came for them, since the start.", counter, float64(n.Lost)},
		figure{"kafka_fenced_total", "Transactions that another consumer had overtaken, since the start.", counter, float64(n.Fenced)},
		figure{"kafka_store_errors_total", "Transactions that failed and were tried again, since the start.", counter, float64(n.StoreErrors)},
		figure{"kafka_dead_letters_total", "Records set aside on the dead-letter topic, since the start.", counter, float64(n.DeadLetters)},
		figure{"kafka_dead_lost_total", "Dead letters that Kafka does not take, since the start.", counter, float64(n.DeadLost)},
		figure{"receipts_dropped_total", "Receipts that were not sent, since the start: vehicles ask again.", counter, float64(n.ReceiptsDropped)},
		figure{"kafka_rebalances_total", "Assignments and losses of partitions, since the start.", counter, float64(n.Rebalances)},
	)
}
