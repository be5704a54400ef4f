package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waybill-telematics/waybill/internal/cli"
)

func TestKafkaCommands(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	brokers := strings.Join(k.ListenAddrs(), ",")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"status"}, cli.Failed, "kafka init"},
		{[]string{"init", "--partitions", "2"}, cli.OK, "made     wb1.raw: 2 partitions, replication 3\nmade     wb1.dead: 1 partitions, replication 3\nall topics are as they are to be\n"},
		{[]string{"init", "--partitions", "2"}, cli.OK, "all topics are as they are to be\n"},
		{[]string{"init", "--partitions", "2", "--retention", "1h"}, cli.Findings, "differs  wb1.raw: retention.ms is 604800000, want 3600000; --alter changes it\n"},
		{[]string{"init", "--partitions", "2", "--retention", "1h", "--alter"}, cli.OK, "changed  wb1.raw: retention.ms from 604800000 to 3600000\nall topics are as they are to be\n"},
		{[]string{"init", "--partitions", "1", "--retention", "1h", "--alter"}, cli.Findings, "differs  wb1.raw: partitions is 2, want 1: Kafka cannot take partitions away\n"},
		{[]string{"init", "--topic-prefix", "other", "--partitions", "4", "--decoded"}, cli.OK, "made     other.positions: 4 partitions, replication 3\n"},
		{[]string{"status"}, cli.OK, "lag 0\n"},
		{[]string{"status", "--json"}, cli.OK, `"told":-1`},
	} {
		text, code := run(append([]string{"kafka", c.args[0], "--brokers", brokers}, c.args[1:]...)...)
		if code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%v: exit code %d: %s\nwant %d: %s", c.args, code, text, c.code, c.want)
		}
	}
}

func TestKafkaFlags(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("hidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"", "--brokers HOST:PORT is needed"},
		{"--brokers kafka.example:9092", "without TLS only on this machine"},
		{"--brokers 127.0.0.1", "want HOST:PORT"},
		{"--brokers 127.0.0.1:9092 --cert a.pem", "--cert and --cert-key belong together"},
		{"--brokers 127.0.0.1:9092 --user fleet", "--password-file"},
		{"--brokers 127.0.0.1:9092 --password-file " + secret, "want a --user"},
		{"--brokers 127.0.0.1:9092 --user fleet --sasl GSSAPI --password-file " + secret, "GSSAPI"},
		{"--brokers 127.0.0.1:9092 --partitions 0", "partitions: must be between"},
		{"--brokers 127.0.0.1:9092 --retention 1s", "retention: must be at least"},
		{"--brokers 127.0.0.1:9092 --topic-prefix a/b", "topic prefix"},
	} {
		text, code := run(append([]string{"kafka", "init"}, strings.Fields(c.args)...)...)
		if code != cli.Usage || !strings.Contains(text, c.want) || strings.Contains(text, "hidden") {
			t.Errorf("%s: exit code %d: %s", c.args, code, text)
		}
	}
}
