package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// deadRetention is how long dead letters are kept at least: a person looks at them.
const deadRetention = 30 * 24 * time.Hour

// TopicOptions say how the topics are to be.
type TopicOptions struct {
	Partitions  int // of all but the dead letters, which have one
	Replication int
	Retention   time.Duration
	Decoded     bool // the decoded topics too: samples, events, positions, losses, and carried
}

// Check says what is wrong with the options.
func (t *TopicOptions) Check() error {
	switch {
	case t.Partitions < 1 || t.Partitions > 10_000:
		return fmt.Errorf("partitions: must be between 1 and 10000, got %d", t.Partitions)
	case t.Replication < 1 || t.Replication > 100:
		return fmt.Errorf("replication: must be between 1 and 100, got %d", t.Replication)
	case t.Retention < time.Minute:
		return fmt.Errorf("retention: must be at least 1m, got %v", t.Retention)
	}
	return nil
}

// Topic is how a topic is to be.
type Topic struct {
	Name        string
	Partitions  int
	Replication int
	Settings    map[string]string
}

// Topics lists what there has to be.
func (o *Options) Topics(t TopicOptions) []Topic {
	topic := func(name string, partitions int, retention time.Duration) Topic {
		return Topic{Name: o.topic(name), Partitions: partitions, Replication: t.Replication, Settings: map[string]string{
			"cleanup.policy":      "delete",
			"retention.ms":        strconv.FormatInt(retention.Milliseconds(), 10),
			"max.message.bytes":   strconv.Itoa(MaxRecord),
			"min.insync.replicas": strconv.Itoa(max(1, t.Replication-1)),
			"compression.type":    "producer",
		}}
	}
	list := []Topic{topic("raw", t.Partitions, t.Retention), topic("dead", 1, max(t.Retention, deadRetention))}
	if t.Decoded {
		for _, name := range []string{"samples", "events", "positions", "losses"} {
			list = append(list, topic(name, t.Partitions, t.Retention))
		}
		list = append(list, o.carriedTopic(t))
	}
	return list
}

// Change is what Init found of one topic to be otherwise than it is to be.
type Change struct {
	Topic   string `json:"topic"`
	What    string `json:"what"` // "topic", "partitions", "replication", or the name of a setting
	Have    string `json:"have"` // "" of a topic that is not there
	Want    string `json:"want"`
	Done    bool   `json:"done"`              // it is now as wanted
	Because string `json:"because,omitempty"` // why it was not done
}

// Init makes the topics that are not there. Of those that are it says what differs, and with alter changes it, where
// Kafka can. No topic and no partition is ever deleted; a shorter retention has Kafka delete what is older.
func Init(ctx context.Context, o Options, t TopicOptions, alter bool) ([]Change, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	client, err := o.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	want := o.Topics(t)
	var names []string
	for _, w := range want {
		names = append(names, w.Name)
	}
	have, err := admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("Kafka: list topics: %w", explain(err))
	}
	var changes []Change
	for _, w := range want {
		h, known := have[w.Name]
		switch {
		case !known || errors.Is(h.Err, kerr.UnknownTopicOrPartition):
			if err := create(ctx, admin, w); err != nil {
				return changes, err
			}
			changes = append(changes, Change{Topic: w.Name, What: "topic", Want: fmt.Sprintf("%d partitions, replication %d", w.Partitions, w.Replication), Done: true})
		case h.Err != nil:
			return changes, fmt.Errorf("Kafka: topic %s: %w", w.Name, explain(h.Err))
		default:
			list, err := differences(ctx, admin, h, w)
			if err != nil {
				return changes, err
			}
			for i := range list {
				if alter && list[i].Because == "" {
					if err := change(ctx, admin, w, &list[i]); err != nil {
						return append(changes, list...), err
					}
				}
			}
			changes = append(changes, list...)
		}
	}
	return changes, nil
}

func create(ctx context.Context, admin *kadm.Client, w Topic) error {
	settings := map[string]*string{}
	for name, value := range w.Settings {
		settings[name] = &value
	}
	_, err := admin.CreateTopic(ctx, int32(w.Partitions), int16(w.Replication), settings, w.Name)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.InvalidReplicationFactor):
		return fmt.Errorf("Kafka: create topic %s: %w; there are fewer brokers than --replication %d", w.Name, err, w.Replication)
	}
	return fmt.Errorf("Kafka: create topic %s: %w", w.Name, explain(err))
}

// differences compares a topic with how it is to be, in a fixed order.
func differences(ctx context.Context, admin *kadm.Client, h kadm.TopicDetail, w Topic) (list []Change, err error) {
	if n := len(h.Partitions); n != w.Partitions {
		c := Change{Topic: w.Name, What: "partitions", Have: strconv.Itoa(n), Want: strconv.Itoa(w.Partitions)}
		if n > w.Partitions {
			c.Because = "Kafka cannot take partitions away"
		}
		list = append(list, c)
	}
	if n := h.Partitions.NumReplicas(); n != w.Replication {
		list = append(list, Change{Topic: w.Name, What: "replication", Have: strconv.Itoa(n), Want: strconv.Itoa(w.Replication),
			Because: "it means to move data: Kafka's own kafka-reassign-partitions does it"})
	}
	resources, err := admin.DescribeTopicConfigs(ctx, w.Name)
	if err != nil {
		return nil, fmt.Errorf("Kafka: settings of topic %s: %w", w.Name, explain(err))
	}
	resource, err := resources.On(w.Name, nil)
	if err == nil {
		err = resource.Err
	}
	if err != nil {
		return nil, fmt.Errorf("Kafka: settings of topic %s: %w", w.Name, explain(err))
	}
	now := map[string]string{}
	for _, c := range resource.Configs {
		now[c.Key] = c.MaybeValue()
	}
	for _, name := range slices.Sorted(maps.Keys(w.Settings)) {
		if name == "max.message.bytes" { // more does no harm
			if n, err := strconv.Atoi(now[name]); err == nil && n >= MaxRecord {
				continue
			}
		}
		if now[name] != w.Settings[name] {
			list = append(list, Change{Topic: w.Name, What: name, Have: now[name], Want: w.Settings[name]})
		}
	}
	return list, nil
}

func change(ctx context.Context, admin *kadm.Client, w Topic, c *Change) error {
	var err error
	if c.What == "partitions" {
		var answers kadm.CreatePartitionsResponses
		if answers, err = admin.UpdatePartitions(ctx, w.Partitions, w.Name); err == nil {
			err = answers.Error()
		}
	} else {
		var answers kadm.AlterConfigsResponses
		if answers, err = admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: c.What, Value: &c.Want}}, w.Name); err == nil {
			var answer kadm.AlterConfigsResponse
			if answer, err = answers.On(w.Name, nil); err == nil {
				err = answer.Err
			}
		}
	}
	if err != nil {
		return fmt.Errorf("Kafka: topic %s: change %s: %w", w.Name, c.What, explain(err))
	}
	c.Done = true
	return nil
}

// PartitionStatus is one partition of the raw topic as Kafka tells it.
type PartitionStatus struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Leader    int32  `json:"leader"` // broker; -1: none, the partition is out of reach
	InSync    int    `json:"in_sync"`
	Replicas  int    `json:"replicas"`
	Start     int64  `json:"start"`
	End       int64  `json:"end"`
	Told      int64  `json:"told"` // the group's position as Kafka was told it; -1: nothing
	Lag       int64  `json:"lag"`  // records that the group has still to take
}

// Status lists the partitions of the raw topic and of the dead letters, with the group's positions on the raw one.
func Status(ctx context.Context, o Options, group string) ([]PartitionStatus, error) {
	client, err := o.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(ctx, o.RawTopic(), o.DeadTopic())
	if err != nil {
		return nil, fmt.Errorf("Kafka: list topics: %w", explain(err))
	}
	told, err := admin.FetchOffsets(ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("Kafka: offsets of group %s: %w", group, explain(err))
	}
	var list []PartitionStatus
	for _, name := range []string{o.RawTopic(), o.DeadTopic()} {
		topic := topics[name]
		if topic.Err != nil {
			return nil, fmt.Errorf("Kafka: topic %s: %w", name, explain(topic.Err))
		}
		starts, err := admin.ListStartOffsets(ctx, name)
		if err == nil {
			err = starts.Error()
		}
		if err != nil {
			return nil, fmt.Errorf("Kafka: offsets of %s: %w", name, explain(err))
		}
		ends, err := admin.ListEndOffsets(ctx, name)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return nil, fmt.Errorf("Kafka: offsets of %s: %w", name, explain(err))
		}
		for _, p := range topic.Partitions.Sorted() {
			start, _ := starts.Lookup(name, p.Partition)
			end, _ := ends.Lookup(name, p.Partition)
			s := PartitionStatus{Topic: name, Partition: p.Partition, Leader: p.Leader, InSync: len(p.ISR), Replicas: len(p.Replicas),
				Start: start.Offset, End: end.Offset, Told: -1}
			if name == o.RawTopic() {
				if at, ok := told.Lookup(name, p.Partition); ok && at.At >= 0 {
					s.Told = at.At
				}
				s.Lag = max(0, end.Offset-max(start.Offset, s.Told))
			}
			list = append(list, s)
		}
	}
	return list, nil
}
