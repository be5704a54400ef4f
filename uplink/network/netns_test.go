package network_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/network"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const patience = time.Minute

// The test binary runs itself in network namespaces of its own: as the vehicle, which holds the test, and as the world
// that its links lead to.
const (
	roleVehicle = "vehicle"
	roleWorld   = "world"
)

func TestMain(m *testing.M) {
	if os.Getenv("WAYBILL_NETNS") == roleWorld {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the vehicle is done
		return
	}
	os.Exit(m.Run())
}

// inNamespace runs the test again, in a network namespace in which it may do everything; false: it has, out here.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("WAYBILL_NETNS") == roleVehicle {
		return true
	}
	if os.Getenv("WAYBILL_TEST_EXEC") != "" {
		t.Skip("skipped: user-mode emulation makes no namespaces")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "WAYBILL_NETNS="+roleVehicle)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		deps.Missing(t, "network namespaces: %v; allow them (kernel.unprivileged_userns_clone) or run as root", err)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in the namespace: %v\n%s", err, out)
	}
	return false
}

// net2 is a vehicle with two links to one world: wlan0 (10.1.0.1) and wwan0 (10.2.0.1), to a broker at 10.9.0.1.
type net2 struct {
	t     *testing.T
	world int // its process, whose namespace it is
}

func (n *net2) ip(args string) {
	n.t.Helper()
	if out, err := deps.Program(n.t, "iproute2", "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
}

func newNet2(t *testing.T) *net2 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WAYBILL_NETNS="+roleWorld)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} // it ends with its standard input
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	n := &net2{t, cmd.Process.Pid}
	n.ip("link set lo up")
	for i, name := range []string{"wlan0", "wwan0"} {
		n.ip(fmt.Sprintf("link add %s type veth peer name w%d netns %d", name, i+1, n.world))
	}
	n.inWorld(func() error {
		n.ip("link set lo up")
		n.ip("addr add 10.9.0.1/32 dev lo")
		for i := 1; i <= 2; i++ {
			n.ip(fmt.Sprintf("addr add 10.%d.0.2/24 dev w%d", i, i))
			n.ip(fmt.Sprintf("link set w%d up", i))
		}
		return nil
	})
	return n
}

// inWorld does something on a thread that is in the other namespace.
func (n *net2) inWorld(do func() error) {
	n.t.Helper()
	failed := make(chan error)
	go func() {
		// The thread is in the other namespace from here on and ends with this goroutine: it is never unlocked.
		runtime.LockOSThread()
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", n.world), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = do()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		n.t.Fatal(err)
	}
}

// up gives a link its address, and the broker's route over it.
func (n *net2) up(i int, name string) {
	n.t.Helper()
	n.ip(fmt.Sprintf("link set %s up", name))
	n.ip(fmt.Sprintf("addr add 10.%d.0.1/24 dev %s", i, name))
	n.ip(fmt.Sprintf("route add default via 10.%d.0.2 dev %s metric %d", i, name, 100*i))
}

func (n *net2) down(name string) {
	n.ip("addr flush dev " + name)
	n.ip("link set " + name + " down")
}

// listen opens a port of the world.
func (n *net2) listen(addr string) (l net.Listener) {
	n.t.Helper()
	n.inWorld(func() (err error) {
		l, err = net.Listen("tcp4", addr)
		return err
	})
	n.t.Cleanup(func() { l.Close() })
	return l
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("no end of waiting: %s", what)
		}
	}
}

func addBatches(t *testing.T, q *uplinktest.Queue, l telemetrypb.Lane, n int) {
	t.Helper()
	for i := range n {
		if _, err := q.Add(l, telemetrypb.Head{BootID: [16]byte{1}, Catalogue: [16]byte{9}}, []telemetrypb.Sample{telemetrypb.IntSample(1, int64(i), int64(i))}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTwoLinks: a vehicle begins on the link that it has, moves to a better one when that appears and leads to the broker,
// comes back when it goes, and connects as soon as any appears.
func TestTwoLinks(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNet2(t)
	broker, err := uplinktest.NewBroker()
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	// The broker is in the vehicle's namespace; the world passes connections on to it and notes over which link they came.
	world := n.listen("10.9.0.1:1883")
	var mu sync.Mutex
	var came []string
	go func() {
		for {
			conn, err := world.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			mu.Lock()
			came = append(came, host)
			mu.Unlock()
			go func() {
				defer conn.Close()
				far, err := net.Dial("tcp", broker.Addr())
				if err != nil {
					return
				}
				defer far.Close()
				go func() { _, _ = io.Copy(far, conn); _ = far.Close() }()
				_, _ = io.Copy(conn, far)
			}()
		}
	}()
	last := func() string {
		mu.Lock()
		defer mu.Unlock()
		if len(came) == 0 {
			return ""
		}
		return came[len(came)-1]
	}
	alarms := alarm.NewBoard(func() int64 { return 1 }, slog.New(slog.DiscardHandler))
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	const telemetry, event = telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Lane_LANE_EVENT
	links, err := network.New(network.Options{
		Links: []network.Link{{Name: "wifi", Interface: "wlan0", Priority: 1},
			{Name: "lte", Interface: "wwan0", Priority: 2, Metered: true, Without: []telemetrypb.Lane{telemetry}}},
		Now: func() (time.Time, bool) { return time.Now(), true }, Boot: func() int64 { return time.Now().UnixNano() },
		Alarms: alarms, Log: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	q, err := uplinktest.NewQueue("acme", "car-1", 7)
	if err != nil {
		t.Fatal(err)
	}
	u, err := uplink.New(uplink.Options{
		URL: "mqtt://10.9.0.1:1883", Insecure: true, Tenant: "acme", Device: "car-1", Ack: uplink.AckPuback,
		BackoffBase: time.Hour, BackoffCap: time.Hour, WakeGap: 100 * time.Millisecond, // only what the kernel tells ends a wait
		Dial: links.Dial, OnConnect: links.Connected, Allowed: links.Allowed, OnTraffic: links.Traffic,
		Alarms: alarms, Log: logger,
	}, q)
	if err != nil {
		t.Fatal(err)
	}
	addBatches(t, q, telemetry, 5)
	addBatches(t, q, event, 5)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = u.Run(ctx) })
	tasks.Go(func() { _ = links.Run(ctx, u) })
	defer tasks.Wait()
	defer cancel()

	wait(t, "no link at all", func() bool { return strings.Contains(u.State().Why, "wwan0 is down") })
	n.up(2, "wwan0")
	wait(t, "events over the second link", func() bool { return q.Len() == 5 })
	if links.Current() != "lte" || last() != "10.2.0.1" {
		t.Errorf("over %s from %s, want lte from 10.2.0.1", links.Current(), last())
	}
	n.up(1, "wlan0")
	wait(t, "telemetry over the first link", func() bool { return q.Len() == 0 })
	if links.Current() != "wifi" || last() != "10.1.0.1" || u.State().Losses != 0 {
		t.Errorf("over %s from %s with %d losses, want wifi from 10.1.0.1 with none", links.Current(), last(), u.State().Losses)
	}
	n.down("wlan0")
	addBatches(t, q, event, 5)
	wait(t, "events over the second link again", func() bool { return q.Len() == 0 })
	if links.Current() != "lte" || last() != "10.2.0.1" {
		t.Errorf("over %s from %s, want lte from 10.2.0.1", links.Current(), last())
	}

	// A better link that is up and leads nowhere is tried beside the connection, which stays.
	before := u.State().Connections
	n.inWorld(func() error { n.ip("link set w1 down"); n.ip("link set w1 up"); n.ip("addr flush dev w1"); return nil })
	n.up(1, "wlan0")
	time.Sleep(5 * time.Second)
	addBatches(t, q, event, 5)
	wait(t, "events on the link that works", func() bool { return q.Len() == 0 })
	if links.Current() != "lte" || u.State().Connections != before {
		t.Errorf("over %s, %d connections more", links.Current(), u.State().Connections-before)
	}
	n.down("wlan0")
	n.down("wwan0")
	wait(t, "nothing", func() bool { return u.State().Phase == uplink.Offline })
	n.up(2, "wwan0")
	wait(t, "online again", func() bool { return u.State().Phase == uplink.Online })
}

// TestWatch: the kernel's own messages are understood.
func TestWatch(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNet2(t)
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	seen := map[network.Kind]int{}
	done := make(chan error, 1)
	ready := make(chan struct{}, 1)
	go func() {
		done <- network.Watch(ctx, func(list []network.Change) {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range list {
				seen[c.Kind]++
			}
			select {
			case ready <- struct{}{}:
			default:
			}
		})
	}()
	count := func(k network.Kind) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[k]
	}
	for heard := false; !heard; { // until it listens
		n.ip("link set wwan0 mtu 1400")
		select {
		case <-ready:
			heard = true
		case <-time.After(50 * time.Millisecond):
		}
		n.ip("link set wwan0 mtu 1500")
	}
	n.up(1, "wlan0")
	wait(t, "route and address", func() bool { return count(network.RouteAdded) > 0 && count(network.AddressAdded) > 0 })
	n.down("wlan0")
	wait(t, "their end", func() bool { return count(network.AddressRemoved) > 0 && count(network.LinkChanged) > 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAllAddresses: of a name's addresses each gets its part of the time; one that swallows everything does not cost
// the connection.
func TestAllAddresses(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNet2(t)
	n.up(1, "wlan0")
	world := n.listen("10.9.0.1:1883")
	go func() {
		for {
			conn, err := world.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	dns, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dns.Close()
	go serveNames(dns, [][4]byte{{10, 1, 0, 99}, {10, 9, 0, 1}}, [][16]byte{{0xfd, 15: 1}})
	links, err := network.New(network.Options{
		Links: []network.Link{{Name: "wifi", Interface: "wlan0"}}, Now: func() (time.Time, bool) { return time.Now(), true }, Boot: func() int64 { return 1 },
		Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp4", dns.LocalAddr().String())
		}},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
	defer cancel()
	conn, err := links.Dial(ctx, "tcp", "broker.example:1883")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != "10.9.0.1:1883" {
		t.Errorf("connected to %s", got)
	}
}

// serveNames answers every question with the same addresses.
func serveNames(c net.PacketConn, four [][4]byte, six [][16]byte) {
	b := make([]byte, 1500)
	for {
		size, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Authoritative, m.Additionals = true, true, nil
		head := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: m.Questions[0].Type, Class: dnsmessage.ClassINET, TTL: 1}
		switch m.Questions[0].Type {
		case dnsmessage.TypeA:
			for _, a := range four {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a}})
			}
		case dnsmessage.TypeAAAA:
			for _, a := range six {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a}})
			}
		}
		if answer, err := m.Pack(); err == nil {
			_, _ = c.WriteTo(answer, from)
		}
	}
}
