package vm

import (
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

const diskConfig = `
device: {id: bench-1}
data_dir: mnt/data
can: [{bus: can0, interface: vcan0, dbc: [counter.dbc]}]
collect:
  signals: [{match: "can0.?.Count", sample: every}]
queue: {commit_every: 200ms, seal_every: 500ms, memory: 256KiB}
`

// diskScript gives the agent's data folder a file system of its own, on a disk that can be made to fail, and has the agent
// read the bus through it all. The file system has no journal, since one that has, once it could not write it, takes no writes until
// it is unmounted. SysRq-u makes file systems read-only though files are open for writing, as the kernel does after an error.
const diskScript = `set -u
fail() { echo "$@"; exit 1; }
said() { n=0; until [ $(grep -c "$2" agent.log) -ge $1 ]; do sleep 0.05; n=$((n+1)); [ $n -lt 600 ] || fail "no $1. $2"; done; }
raised() { said $1 "alarm raised.*queue.disk"; }
cleared() { said $1 "alarm cleared.*queue.disk"; }
alive() { kill -0 $agent || fail "the agent has ended"; }
listened() { until grep -qE "^ +vcan0 " /proc/net/can/rcvlist_*; do kill -0 $agent || fail "the agent did not start"; sleep 0.05; done; }
start() { AGENT run -c agent.yaml 2>>agent.log & agent=$!; listened; }
stop() { sleep 0.5; kill -TERM $agent; wait $agent || fail "the agent ended with $?"; }
steady() { CANGEN vcan0 -g 2 -n 150 -I 100 -L 8 -D i; }
protect() { echo u >/proc/sysrq-trigger; until grep -q " $PWD/mnt ext4 ro" /proc/mounts; do sleep 0.05; done; }
writable() { mount -o remount,rw mnt || fail "remount"; }
table() { DMSETUP --noudevsync suspend --noflush --nolockfs disk; DMSETUP --noudevsync load disk --table "$1"; DMSETUP --noudevsync resume disk; }

truncate -s 48M /dev/shm/disk.img
MKE2FS -q -F -m 0 -t ext4 -O ^has_journal /dev/shm/disk.img || fail mke2fs
loop=$(losetup -f --show /dev/shm/disk.img) || fail losetup
size=$(cat /sys/block/${loop#/dev/}/size)
DMSETUP --noudevsync create disk --table "0 $size linear $loop 0" || fail dmsetup
mkdir mnt
mount -t ext4 /dev/dm-0 mnt || fail mount

echo started where nothing can be made
protect
start
raised 1
steady
writable
cleared 1
steady

echo full
cat /dev/zero >mnt/filler 2>/dev/null
CANGEN vcan0 -g 0 -n 30000 -I 101 -L 8 -D r
steady
raised 2
alive
rm mnt/filler
cleared 2
steady

echo read-only
protect
steady
raised 3
alive
writable
cleared 3
steady

echo input/output errors
table "0 $size error"
steady
raised 4
alive
table "0 $size linear $loop 0"
cleared 4
steady
stop

echo started read-only on a queue
protect
start
raised 5
steady
writable
cleared 5
steady
stop
cat /sys/class/net/vcan0/statistics/tx_packets >sent
cp -a mnt/data data || fail copy
`

// TestAgentOutlivesItsDisk: a queue whose disk is full, read-only or failing, in the middle of a drive and at the start. The
// agent goes on and reads the bus; it raises the alarm and takes it down by itself; every frame that the kernel sent is in the queue, once
// and in order, or counted in the ledger.
func TestAgentOutlivesItsDisk(t *testing.T) {
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		if mke2fs, err = exec.LookPath("/usr/sbin/mke2fs"); err != nil {
			deps.Missing(t, "mke2fs: %v", err)
		}
	}
	agent := Build(t, "amd64", "build", "./cmd/agent")
	dir := t.TempDir()
	for name, text := range map[string]string{"counter.dbc": counterDBC, "agent.yaml": diskConfig} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dmsetup := deps.Program(t, "dmsetup", "dmsetup")
	job := Job{Dir: dir, Timeout: 2 * time.Minute, Interfaces: []string{"vcan0"}, Modules: []string{"drivers/md/dm-mod", "drivers/block/loop"},
		Command: []string{"/bin/sh", "-c", strings.NewReplacer("AGENT", agent, "CANGEN", deps.CanUtils(t, "cangen").Path,
			"DMSETUP", dmsetup.Path, "MKE2FS", mke2fs).Replace(diskScript)}}
	for _, e := range dmsetup.Env {
		if strings.HasPrefix(e, "LD_LIBRARY_PATH=") {
			job.Env = append(job.Env, e)
		}
	}
	r := Run(t, job)
	t.Logf("the guest took %v", r.Total-r.Boot)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "agent.log"))
			t.Logf("the guest said:\n%s\nthe agent said:\n%s", r.Output, log)
		}
	})
	if r.Exit != 0 {
		t.Fatalf("exit code %d", r.Exit)
	}
	text, err := os.ReadFile(filepath.Join(dir, "sent"))
	if err != nil {
		t.Fatal(err)
	}
	sent, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || sent != 30000+10*150 {
		t.Fatalf("the kernel sent %d frames: %v", sent, err)
	}
	queue := filepath.Join(dir, "data", "queue")
	c := readContent(t, queue)

	steady := c.signals["can0.A.Count"]
	var last stamped
	for i, s := range steady {
		if i > 0 && (s.time < last.time || s == last) {
			t.Fatalf("sample %d of the counter is %d of %d ns, the one before it %d of %d: twice, or out of order", i, s.raw, s.time, last.raw, last.time)
		}
		last = s
	}
	stored := uint64(len(steady) + len(c.signals["can0.B.Count"]))
	lost := map[telemetrypb.LossReason]uint64{}
	for _, l := range c.losses {
		if l.CountUnknown || l.Source != "queue" && l.Source != "can:can0" {
			t.Errorf("loss %v", l)
		}
		if l.Lane != telemetrypb.Lane_LANE_EVENT { // alarms
			lost[l.Reason] += l.Count
		}
	}
	t.Logf("%d sent: %d in the queue, lost %v", sent, stored, lost)
	sum := stored
	for reason, n := range lost {
		sum += n
		switch reason {
		case telemetrypb.LossReason_LOSS_KERNEL_DROP, telemetrypb.LossReason_LOSS_OVERLOAD, telemetrypb.LossReason_LOSS_QUEUE_FULL,
			telemetrypb.LossReason_LOSS_DISK_ERROR, telemetrypb.LossReason_LOSS_EVICTED, telemetrypb.LossReason_LOSS_THINNED:
		default:
			t.Errorf("%d lost as %v", n, reason)
		}
	}
	if sum != sent {
		t.Errorf("%d frames are unaccounted for", int64(sent-sum))
	}
	if lost[telemetrypb.LossReason_LOSS_QUEUE_FULL]+lost[telemetrypb.LossReason_LOSS_DISK_ERROR] == 0 {
		t.Error("the memory was never full: this test does not test that")
	}

	// By the log: what the full disk cost are events too, the first alarm among them.
	log, err := os.ReadFile(filepath.Join(dir, "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, m := range regexp.MustCompile(`msg="alarm (raised|cleared)" alarm=queue.disk(?: text="([^:]*):)?`).FindAllStringSubmatch(string(log), -1) {
		states = append(states, cmp.Or(m[2], m[1]))
	}
	want := []string{"the file system is read-only", "the queue has no room", "the file system is read-only", "the disk fails", "the file system is read-only"}
	if len(states) != 2*len(want) {
		t.Fatalf("alarms: %q", states)
	}
	for i := range want {
		full := want[i] == "the queue has no room" && states[2*i] == "the disk is full" // whichever bound is met first
		if states[2*i] != want[i] && !full || states[2*i+1] != "cleared" {
			t.Errorf("alarm %d: %q, %q; want %q", i, states[2*i], states[2*i+1], want[i])
		}
	}
	checkSound(t, queue)
	if boot, err := os.ReadFile(filepath.Join(dir, "data", "boot")); err != nil || !strings.HasPrefix(string(boot), "1 ") {
		t.Errorf("the number of the boot: %q, %v", boot, err)
	}
}

// checkSound opens a copy of a queue as the next start of the agent would: nothing damaged, the epoch goes on, batches
// are one behind the other or spoken for.
func checkSound(t *testing.T, dir string) {
	t.Helper()
	look, err := buffer.Open(dir, buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	epoch := look.Epoch()
	if err := look.Close(); err != nil {
		t.Fatal(err)
	}
	q, err := buffer.Open(dir, buffer.Options{Rand: strings.NewReader("another one"), OnDamage: func(d buffer.Damage) { t.Errorf("damage: %v", d) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}()
	if q.Epoch() != epoch || len(q.Recovered()) > 0 {
		t.Errorf("epoch %x after %x, %d journal entries left", q.Epoch(), epoch, len(q.Recovered()))
	}
	for _, l := range buffer.Lanes() {
		var seqs []uint64
		for from := uint64(0); ; {
			r, err := q.Next(l, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Epoch != epoch {
				t.Errorf("lane %s, batch %d is of epoch %x", l, r.Seq, r.Epoch)
			}
			seqs, from = append(seqs, r.Seq), r.Seq+1
		}
		if !slices.IsSorted(seqs) {
			t.Errorf("lane %s: %v", l, seqs)
		}
	}
}
