//go:build system

package stream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/test/deps"
)

// link is a member's way to Kafka, which can be cut: to the others the member is then as good as killed, while it goes
// on believing in its partitions, which is worse.
type link struct {
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func (l *link) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, errors.New("cut")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		l.conns = append(l.conns, conn)
	}
	return conn, err
}

func (l *link) set(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

// checkStore wants each device's messages 0…n-1, each new one after the one before it (what the producer's caller sent
// twice is a duplicate that a store knows by its key), and each record of the topic in exactly one transaction.
func checkStore(t *testing.T, s *fakeSink, sent map[string]int, status []PartitionStatus) (duplicates int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[string]int{}
	for _, m := range s.taken {
		device := strings.Split(m.Topic, "/")[2]
		n, err := strconv.Atoi(string(m.Payload))
		switch {
		case err != nil:
			t.Fatal(err)
		case n == next[device]:
			next[device]++
		case n < next[device]:
			duplicates++
		default:
			t.Fatalf("%s: %d before %d", device, n, next[device])
		}
	}
	for device, n := range sent {
		if next[device] != n {
			t.Errorf("%s: %d of %d messages arrived", device, next[device], n)
		}
	}
	at, records := map[int32]int64{}, int64(0)
	for _, p := range s.takes {
		if p.From != at[p.Partition] || p.To <= p.From {
			t.Fatalf("partition %d went from %d to %d, it was at %d", p.Partition, p.From, p.To, at[p.Partition])
		}
		at[p.Partition] = p.To
	}
	for _, p := range status {
		if p.Topic == "wb1.raw" {
			if records += p.End; at[p.Partition] != p.End {
				t.Errorf("partition %d: taken up to %d of %d", p.Partition, at[p.Partition], p.End)
			}
		}
	}
	if int(records) != len(s.taken) {
		t.Errorf("%d records on the topic, %d messages taken", records, len(s.taken))
	}
	return duplicates
}

// Broker and members come and go; each record is taken once, each vehicle's messages in their order.
func TestKafkaExactlyOnce(t *testing.T) {
	k := deps.Kafka(t, deps.KafkaOptions{})
	o := Options{Brokers: []string{k.Addr}}
	changes, err := Init(t.Context(), o, TopicOptions{Partitions: 8, Replication: 1, Retention: time.Hour}, false)
	if err != nil || len(changes) != 2 {
		t.Fatalf("%+v, %v", changes, err)
	}
	s := newSink()
	p := newProducer(t, o, 2*time.Second)
	halt, sent := make(chan struct{}), map[string]int{}
	var failed atomic.Int64
	var sender sync.WaitGroup
	sender.Go(func() { // as a broker does: what was not acknowledged comes again, all of it
		for n := 0; ; n++ {
			var group []ingest.Message
			for d := range 40 {
				device := fmt.Sprintf("car-%d", d)
				for range 3 {
					group = append(group, message(device, sent[device]))
					sent[device]++
				}
			}
			for {
				_, _, err := p.Apply(context.Background(), group)
				if err == nil {
					break
				}
				failed.Add(1)
			}
			select {
			case <-halt:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	defer sender.Wait()
	stopSending := sync.OnceFunc(func() { close(halt) })
	defer stopSending()

	links := [4]link{}
	var members [4]*Consumer
	var stops [4]func()
	start := func(i int) {
		mo := o
		mo.dialContext = links[i].dial
		members[i], stops[i] = startConsumer(t, ConsumerOptions{Options: mo, SessionTimeout: 3 * time.Second, RevokeWait: 3 * time.Second}, s)
	}
	shares := func(want ...int) func() bool {
		return func() bool {
			for i, n := range want {
				if n >= 0 && len(members[i].Partitions()) != n {
					return false
				}
			}
			return true
		}
	}
	more := func(what string, ok func() bool) { // and something new is taken
		t.Helper()
		began := time.Now()
		for !ok() {
			if time.Since(began) > 90*time.Second {
				t.Fatalf("not within 90 s: %s", what)
			}
			time.Sleep(20 * time.Millisecond)
		}
		for n := s.count(); s.count() < n+500; time.Sleep(20 * time.Millisecond) {
			if time.Since(began) > 90*time.Second {
				t.Fatalf("nothing goes on after: %s", what)
			}
		}
		t.Logf("%s: %v", what, time.Since(began).Round(10*time.Millisecond))
	}
	start(0)
	start(1)
	more("two share", shares(4, 4))
	start(2)
	start(3)
	more("four share", shares(2, 2, 2, 2))
	links[3].set(true)
	more("three have the share of one that was cut off", func() bool {
		return len(members[0].Partitions())+len(members[1].Partitions())+len(members[2].Partitions()) == 8
	})
	k.Kill()
	time.Sleep(3 * time.Second)
	k.Start()
	more("the broker was killed", func() bool { return true })
	links[3].set(false)
	more("the fourth is back", shares(2, 2, 2, 2))
	stops[1]()
	more("one left", func() bool {
		return len(members[0].Partitions())+len(members[2].Partitions())+len(members[3].Partitions()) == 8
	})
	k.Stop()
	if _, _, err := newProducer(t, o, time.Second).Apply(t.Context(), []ingest.Message{message("nobody", 0)}); err == nil {
		t.Error("Kafka is stopped, and Apply says that it is done")
	}
	k.Start()
	more("the broker was stopped", func() bool { return true })
	stopSending()
	sender.Wait()
	status, err := Status(t.Context(), o, "waybill-store")
	if err != nil {
		t.Fatal(err)
	}
	var end int64
	for _, p := range status {
		if p.Topic == o.RawTopic() {
			end += p.End
		}
	}
	eventually(t, "all taken", func() bool { return int64(s.count()) == end })
	for _, stop := range stops {
		stop()
	}
	duplicates := checkStore(t, s, sent, status)
	if failed.Load() == 0 {
		t.Error("Apply never failed: the broker was not away")
	}
	t.Logf("%d messages in %d records, %d duplicates, %d calls of Apply failed", total(sent), end, duplicates, failed.Load())
	status, err = Status(t.Context(), o, "waybill-store")
	for _, p := range status {
		if err != nil || p.Lag != 0 {
			t.Errorf("lag after the last one left: %+v, %v", p, err)
		}
	}
}

// The partition of a key is the one that Kafka's own client chooses.
func TestKafkaPartitioner(t *testing.T) {
	source := filepath.Join(t.TempDir(), "Partition.java")
	if err := os.WriteFile(source, []byte(`
import java.nio.charset.StandardCharsets;
import java.util.Scanner;
import org.apache.kafka.common.utils.Utils;

class Partition {
    public static void main(String[] args) {
        Scanner in = new Scanner(System.in, StandardCharsets.UTF_8).useDelimiter("\n");
        while (in.hasNext()) {
            System.out.println(Utils.toPositive(Utils.murmur2(in.next().getBytes(StandardCharsets.UTF_8))) % Integer.parseInt(args[0]));
        }
    }
}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var keys bytes.Buffer
	var ours []int
	for n := range 2000 {
		m := message(fmt.Sprintf("käfer-%x", n*n), 0)
		r, err := recordOf(m, "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&keys, "%s\n", r.Key)
		ours = append(ours, partitionOf(m, 12))
	}
	cmd := deps.KafkaJava(t, source, "12")
	cmd.Stdin = &keys
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for i, want := range ours {
		if !lines.Scan() || lines.Text() != strconv.Itoa(want) {
			t.Fatalf("key %d: ours is partition %d, Java's %q", i, want, lines.Text())
		}
	}
}

// Each way in, and that the others are shut; the topics on that way.
func TestKafkaSecured(t *testing.T) {
	dir := t.TempDir()
	ca, server, client := authority(t, dir)
	k := deps.Kafka(t, deps.KafkaOptions{Users: map[string]string{"fleet": "right-1"}, Certificate: server, ClientCA: ca})
	config := func(ca, cert string) func() (*tls.Config, error) {
		return func() (*tls.Config, error) {
			pool := x509.NewCertPool()
			text, err := os.ReadFile(ca)
			if err != nil {
				return nil, err
			}
			pool.AppendCertsFromPEM(text)
			c := &tls.Config{RootCAs: pool}
			if cert != "" {
				pair, err := tls.LoadX509KeyPair(cert, cert)
				if err != nil {
					return nil, err
				}
				c.Certificates = []tls.Certificate{pair}
			}
			return c, nil
		}
	}
	other := t.TempDir()
	otherCA, _, otherClient := authority(t, other)
	user := func(password string) func() (string, string, error) {
		return func() (string, string, error) { return "fleet", password, nil }
	}
	secure := func(mechanism, password, ca, cert string) Options {
		return Options{Brokers: []string{k.Secure}, Mechanism: mechanism, Credentials: user(password), TLS: config(ca, cert), Log: testLog(t)}
	}
	want := TopicOptions{Partitions: 3, Replication: 1, Retention: time.Hour}
	for i, mechanism := range []string{ScramSHA512, ScramSHA256, Plain} {
		o := secure(mechanism, "right-1", ca, client)
		changes, err := Init(t.Context(), o, want, false)
		if err != nil || i == 0 && len(changes) != 2 || i > 0 && len(changes) != 0 {
			t.Fatalf("%s: %+v, %v", mechanism, changes, err)
		}
		p := newProducer(t, o, 10*time.Second)
		apply(t, p, message("car", i))
	}
	s := newSink()
	startConsumer(t, ConsumerOptions{Options: secure(ScramSHA512, "right-1", ca, client)}, s)
	eventually(t, "all taken", func() bool { return s.count() == 3 })
	s.checkExact(t, map[string]int{"car": 3})
	for name, o := range map[string]Options{
		"wrong password": secure(ScramSHA512, "wrong", ca, client),
		"wrong plain":    secure(Plain, "wrong", ca, client),
		"no certificate": secure(ScramSHA512, "right-1", ca, ""),
		"another's":      secure(ScramSHA512, "right-1", ca, otherClient),
		"not Kafka's CA": secure(ScramSHA512, "right-1", otherCA, client),
		"no SASL":        {Brokers: []string{k.Secure}, TLS: config(ca, client)},
		"no TLS":         {Brokers: []string{k.Secure}, Mechanism: ScramSHA512, Credentials: user("right-1")},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, err := Status(ctx, o, "waybill-store")
		cancel()
		if err == nil || strings.Contains(err.Error(), "right-1") {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
	t.Run("init", func(t *testing.T) { initTopics(t, secure(ScramSHA512, "right-1", ca, client), want) })
}

// initTopics: what differs is said, changed only when that is asked for, and never made smaller.
func initTopics(t *testing.T, o Options, want TopicOptions) {
	want.Retention, want.Partitions = 2*time.Hour, 5
	find := func(changes []Change, topic, what string) (c Change) {
		for _, c := range changes {
			if c.Topic == topic && c.What == what {
				return c
			}
		}
		return Change{}
	}
	for range 2 {
		changes, err := Init(t.Context(), o, want, false)
		if r, p := find(changes, "wb1.raw", "retention.ms"), find(changes, "wb1.raw", "partitions"); err != nil || len(changes) != 2 ||
			r != (Change{"wb1.raw", "retention.ms", "3600000", "7200000", false, ""}) || p != (Change{"wb1.raw", "partitions", "3", "5", false, ""}) {
			t.Fatalf("%+v, %v", changes, err)
		}
	}
	changes, err := Init(t.Context(), o, want, true)
	if err != nil || len(changes) != 2 || !changes[0].Done || !changes[1].Done {
		t.Fatalf("%+v, %v", changes, err)
	}
	eventually(t, "nothing is left to do", func() bool {
		changes, err := Init(t.Context(), o, want, true)
		return err == nil && len(changes) == 0
	})
	want.Partitions, want.Decoded = 4, true
	changes, err = Init(t.Context(), o, want, true)
	if c := find(changes, "wb1.raw", "partitions"); err != nil || len(changes) != 6 || c.Done || c.Because == "" {
		t.Fatalf("%+v, %v", changes, err)
	}
	want.Replication = 3
	if _, err := Init(t.Context(), Options{Brokers: o.Brokers, Prefix: "two", TLS: o.TLS, Mechanism: o.Mechanism, Credentials: o.Credentials}, want, false); err == nil || !strings.Contains(err.Error(), "fewer brokers") {
		t.Errorf("three replicas on one broker: %v", err)
	}
}

// authority makes a CA in dir, and by it certificates for 127.0.0.1 and for a client, each with its key in one PEM file.
func authority(t *testing.T, dir string) (ca, server, client string) {
	t.Helper()
	a := certs.NewAuthority(t, "ca")
	write := func(name string, text ...[]byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Join(text, nil), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s, c := a.Leaf("kafka"), a.Leaf("fleet")
	return write("ca.pem", a.CertPEM()), write("server.pem", s.KeyPEM(), s.CertPEM()), write("client.pem", c.KeyPEM(), c.CertPEM())
}
