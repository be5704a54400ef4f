package deps

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// KafkaOptions of a Kafka.
type KafkaOptions struct {
	Dir   string   // "": a temporary folder
	Lines []string // added to server.properties
	// Users and their passwords make a second listener, which wants one of them by SASL: PLAIN, SCRAM-SHA-256 or
	// SCRAM-SHA-512. It is over TLS where there is a certificate.
	Users map[string]string
	// Certificate, a PEM file with the key (PKCS #8, not encrypted) before it, makes the second listener one with TLS. With
	// ClientCA it takes only clients with a certificate by that authority.
	Certificate, ClientCA string
}

// KafkaNode is one node of Kafka on loopback; Addr is its listener without TLS and names.
type KafkaNode struct {
	*Broker
	Secure string // address of the second listener, "" without
}

// Kafka starts one node of Kafka, broker and controller in one, which keeps all over Stop, Kill and Start in its folder,
// and returns when it accepts connections.
func Kafka(t testing.TB, o KafkaOptions) *KafkaNode {
	t.Helper()
	dir := o.Dir
	if dir == "" {
		dir = t.TempDir()
	}
	jars, java := filepath.Join(Folder(t, "kafka"), "jars"), filepath.Join(Folder(t, "java"), "java")
	k := &KafkaNode{}
	address, controller := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	listeners, protocols := "PLAINTEXT://"+address, "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
	lines := []string{
		"process.roles=broker,controller", "node.id=1", "controller.quorum.voters=1@" + controller,
		"controller.listener.names=CONTROLLER", "inter.broker.listener.name=PLAINTEXT",
		"log.dirs=" + filepath.Join(dir, "data"), "auto.create.topics.enable=false",
		// One node is all there is.
		"offsets.topic.replication.factor=1", "offsets.topic.num.partitions=3",
		"transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1", "transaction.state.log.num.partitions=1",
		"share.coordinator.state.topic.replication.factor=1", "share.coordinator.state.topic.min.isr=1",
		// A test does not wait for members that do not come, and a node that was killed may be back at once.
		"group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=1000",
		"broker.heartbeat.interval.ms=300", "broker.session.timeout.ms=1500",
		"num.network.threads=2", "num.io.threads=4", "num.recovery.threads.per.data.dir=1", "background.threads=2",
		"log.cleaner.dedupe.buffer.size=4000000", "log.retention.check.interval.ms=1000", "log.initial.task.delay.ms=500",
	}
	if len(o.Users) > 0 || o.Certificate != "" {
		k.Secure = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		listeners += ",SECURE://" + k.Secure
		more, protocol := o.secureLines()
		lines, protocols = append(lines, more...), protocols+",SECURE:"+protocol
	}
	lines = append(lines, "listeners="+listeners+",CONTROLLER://"+controller, "advertised.listeners="+listeners, "listener.security.protocol.map="+protocols)
	lines = append(lines, o.Lines...)
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server.properties"), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(kafkaJVM(jars), filepath.Join(Root(t), "test", "deps", "Kafka.java"), dir)
	for _, user := range slices.Sorted(maps.Keys(o.Users)) {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, user, o.Users[user]))
		}
	}
	k.Broker = &Broker{
		Addr: address, Dir: dir, name: "kafka", log: "kafka.out", within: 2 * time.Minute,
		command: func() *exec.Cmd { return exec.Command(java, args...) },
	}
	k.run(t)
	for deadline := time.Now().Add(time.Minute); k.Secure != ""; time.Sleep(20 * time.Millisecond) { // it opens after the first
		conn, err := net.Dial("tcp", k.Secure)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("kafka does not accept connections on %s: %v", k.Secure, err)
		}
	}
	return k
}

// secureLines are the settings of the second listener and its protocol.
func (o *KafkaOptions) secureLines() (lines []string, protocol string) {
	protocol = "PLAINTEXT"
	if len(o.Users) > 0 {
		protocol = "SASL_PLAINTEXT"
		login := "org.apache.kafka.common.security.plain.PlainLoginModule required"
		for user, password := range o.Users {
			login += fmt.Sprintf(` user_%s="%s"`, user, password)
		}
		const prefix, scram = "listener.name.secure.", "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		lines = append(lines, prefix+"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
			prefix+"plain.sasl.jaas.config="+login+";", prefix+"scram-sha-256.sasl.jaas.config="+scram, prefix+"scram-sha-512.sasl.jaas.config="+scram)
	}
	if o.Certificate != "" {
		protocol = map[string]string{"PLAINTEXT": "SSL", "SASL_PLAINTEXT": "SASL_SSL"}[protocol]
		const prefix = "listener.name.secure.ssl."
		lines = append(lines, prefix+"keystore.type=PEM", prefix+"keystore.location="+o.Certificate)
		if o.ClientCA != "" {
			lines = append(lines, prefix+"client.auth=required", prefix+"truststore.type=PEM", prefix+"truststore.location="+o.ClientCA)
		}
	}
	return lines, protocol
}

// kafkaJVM are the options of a JVM that runs Kafka's classes: a small one, which compiles fast rather than well.
func kafkaJVM(jars string) []string {
	return []string{"-Xms128m", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", filepath.Join(jars, "*")}
}

// KafkaJava runs a Java source file with Kafka's classes.
func KafkaJava(t testing.TB, source string, args ...string) *exec.Cmd {
	t.Helper()
	jars, java := filepath.Join(Folder(t, "kafka"), "jars"), filepath.Join(Folder(t, "java"), "java")
	return exec.Command(java, append(append(kafkaJVM(jars), source), args...)...)
}
