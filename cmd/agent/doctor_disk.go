package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
)

// Problems of the disk.
const (
	problemDataNoFolder    = "data-dir-no-folder"
	problemDataPermission  = "data-dir-permission"
	problemDataOpen        = "data-dir-open-to-all"
	problemDiskReadOnly    = "disk-read-only"
	problemDiskFull        = "disk-full"
	problemDiskNoFiles     = "disk-no-inodes"
	problemDiskNotDurable  = "disk-not-durable"
	problemDiskSlow        = "disk-slow-sync"
	problemQuotaTooLarge   = "quota-above-partition"
	problemQueueLocked     = "queue-locked"
	problemQueueForeign    = "queue-not-ours"
	problemQueueNewer      = "queue-newer-format"
	problemQueueDamaged    = "queue-damaged"
	problemQueueUnreadable = "queue-unreadable"
)

// syncTries writes are timed; the middle one counts.
const syncTries = 5

// dataFolder tries what the queue does: folder, room, durable writes. False: the queue cannot be looked into.
func (d *device) dataFolder() bool {
	dir := d.settings.DataDir
	info, err := os.Stat(dir)
	place := dir // what is there
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if place = existing(dir); place == "" {
			place = "/"
		}
	case errors.Is(err, fs.ErrPermission):
		d.fail(stepData, problemDataPermission, err.Error(), "let the agent's user into it: sudo chown -R waybill "+dir)
		return false
	case errors.Is(err, syscall.ENOTDIR), err == nil && !info.IsDir():
		d.fail(stepData, problemDataNoFolder, dir+" is no folder", "correct data_dir:, or move what lies in its place")
		return false
	case err != nil:
		d.fail(stepData, problemDataPermission, err.Error(), "look at the kernel's log")
		return false
	}
	took, err := d.durably(place)
	switch {
	case errors.Is(err, syscall.EROFS):
		d.fail(stepData, problemDiskReadOnly, "the file system of "+place+" is read-only",
			"look into the kernel's log for what made it so, check it (fsck), and mount it writable: mount -o remount,rw")
		return false
	case errors.Is(err, fs.ErrPermission):
		d.fail(stepData, problemDataPermission, place+" cannot be written: "+err.Error(),
			"make it the agent's user's: sudo chown -R waybill "+dir+"; under systemd, StateDirectory= or ReadWritePaths= has to "+
				"name it")
		return false
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		if d.room(place) { // a quota of the user's, say
			d.fail(stepData, problemDiskFull, "the file system of "+place+" takes nothing: "+err.Error(),
				"make room: df -h "+place+", quota")
		}
		return false
	case err != nil:
		d.fail(stepData, problemDataPermission, place+" cannot be written: "+err.Error(),
			"look at the kernel's log; flash that is worn out has to be replaced")
		return false
	}
	if !d.room(place) {
		return info != nil
	}
	if limit := d.settings.CommitEvery / 2; took > limit {
		d.warn(stepData, problemDiskSlow, fmt.Sprintf("making 4 KiB durable on %s takes %v, and it has to happen every %v",
			place, took.Round(time.Millisecond), d.settings.CommitEvery),
			"raise queue.commit_every, or use flash that is faster; other programs that write to it may be the reason (iostat)")
	}
	if info != nil && info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		d.warn(stepData, problemDataOpen, fmt.Sprintf("everybody may write to %s (%v)", dir, info.Mode()), "chmod 0750 "+dir)
	}
	if info == nil {
		d.skip(stepQueue, "%s is not there yet; the agent makes it", dir)
	}
	return info != nil
}

// existing is the nearest folder above a path that is there.
func existing(path string) string {
	for {
		path = filepath.Dir(path)
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
	}
}

// durably writes as the queue does, to a file without a name that is gone when it is closed, and returns how long the
// middle try took.
func (d *device) durably(dir string) (time.Duration, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	var f *os.File
	switch {
	case err == nil:
		f = os.NewFile(uintptr(fd), filepath.Join(dir, "(probe)"))
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR): // a file system, or a kernel, without such files
		if f, err = os.CreateTemp(dir, ".waybill-doctor-"); err != nil {
			return 0, err
		}
		defer os.Remove(f.Name())
	default:
		return 0, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer f.Close()
	took := make([]time.Duration, syncTries)
	page := make([]byte, 4<<10)
	for i := range took {
		began := time.Now()
		if _, err := f.WriteAt(page, int64(i)*int64(len(page))); err != nil {
			return 0, err
		}
		if err := d.flush(f); err != nil {
			return 0, err
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[syncTries/2], nil
}

// File systems that are gone with the power (linux/magic.h).
var volatile = map[int64]string{unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs"}

// room looks at the file system: what kind it is, and how much goes onto it. False: too little.
func (d *device) room(place string) bool {
	var disk unix.Statfs_t
	if err := unix.Statfs(place, &disk); err != nil {
		d.fail(stepData, problemDataPermission, os.NewSyscallError("statfs", err).Error(), "look at the kernel's log")
		return false
	}
	block := int64(disk.Bsize) // of another width on other processors, as Type
	size, free := int64(disk.Blocks)*block, int64(disk.Bavail)*block
	q := d.settings.Queue
	used := onDisk(filepath.Join(d.settings.DataDir, "queue"))
	if name := volatile[int64(uint32(disk.Type))]; name != "" {
		d.warn(stepData, problemDiskNotDurable, fmt.Sprintf("%s is on %s, in memory: what waits there is lost with the power",
			place, name), "set data_dir: to a folder on flash")
	}
	switch {
	case disk.Files > 0 && disk.Ffree == 0:
		d.fail(stepData, problemDiskNoFiles, "the file system of "+place+" can hold no further file: it has no inodes left",
			"remove files (df -i "+place+"), or make the file system anew with more inodes")
		return false
	case free < q.MinFree:
		d.fail(stepData, problemDiskFull, fmt.Sprintf("%s has %s free, and queue.min_free leaves %s to others: nothing more "+
			"is kept", place, mebibytes(free), mebibytes(q.MinFree)),
			"make room (df -h "+place+", du -xh "+place+"), or lower queue.min_free")
		return false
	case q.MaxBytes > used+free-q.MinFree:
		d.warn(stepData, problemQuotaTooLarge, fmt.Sprintf("queue.max_bytes is %s, and the file system of %s has room for %s "+
			"of queue (%s free of %s): old data go earlier than max_bytes says",
			mebibytes(q.MaxBytes), place, mebibytes(max(used+free-q.MinFree, 0)), mebibytes(free), mebibytes(size)),
			"lower queue.max_bytes, or make room")
	default:
		d.ok(stepData, "%s: %s free of %s, the queue takes %s of at most %s", place, mebibytes(free), mebibytes(size),
			mebibytes(used), mebibytes(q.MaxBytes))
	}
	return true
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// onDisk is what the files below a folder take, bytes of disk blocks; what cannot be read counts nothing.
func onDisk(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a file that is just being removed
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += stat.Blocks * 512
			}
		}
		return nil
	})
	return sum
}

// agentName is what the kernel calls a process of ours; proc(5), comm.
const agentName = "waybill-agent"

// queueFolder says who has the queue, whether we may, and whether it is sound.
func (d *device) queueFolder() {
	dir := filepath.Join(d.settings.DataDir, "queue")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		d.skip(stepQueue, "%s is not there yet; the agent makes it", dir)
		return
	}
	if foreign := notWritable(dir); foreign != nil {
		d.fail(stepQueue, problemQueueForeign, foreign.Error()+": it belongs to another user",
			"chown -R it to the agent's user; an agent that was once run as root leaves such files")
		return
	}
	taken, err := buffer.InUse(dir)
	if err != nil {
		d.fail(stepQueue, problemQueueUnreadable, err.Error(), "look at the kernel's log")
		return
	}
	if taken {
		pid, name := lockOwner(dir)
		d.owner = fmt.Sprintf("process %s (%s)", pid, name)
		if name != agentName && !sameProgram(pid) {
			d.fail(stepQueue, problemQueueLocked, dir+" is open in "+d.owner+", which is no "+agentName,
				"end that process, or give each agent a data_dir of its own")
			return
		}
	}
	var damages []string
	q, err := lookInto(dir, func(damage buffer.Damage) { damages = append(damages, fmt.Sprint(damage)) })
	switch {
	case errors.Is(err, buffer.ErrNewerFormat):
		d.fail(stepQueue, problemQueueNewer, err.Error(), "run the newer agent again, or start with an empty data_dir")
		return
	case err != nil:
		d.fail(stepQueue, problemQueueUnreadable, err.Error(), "waybill-agent queue salvage "+dir+" --to OUT reads what can "+
			"be read; then start with an empty data_dir")
		return
	}
	defer q.Close()
	var batches, size uint64
	for _, lane := range q.Stats().Lanes {
		batches, size = batches+lane.Batches, size+lane.Bytes
	}
	if len(damages) > 0 {
		d.warn(stepQueue, problemQueueDamaged, strings.Join(damages, "\n"), "the agent goes on with the rest and accounts for "+
			"what is lost; if it comes again, the flash is wearing out. waybill-agent queue verify "+dir)
		return
	}
	text := fmt.Sprintf("%d batches wait, %d bytes", batches, size)
	if d.owner != "" {
		text += "; the agent runs: " + d.owner
	}
	d.ok(stepQueue, "%s", text)
}

// notWritable is why the queue's files cannot be written, nil when they can: of its lock and each file of its lanes.
func notWritable(dir string) (foreign error) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			var f *os.File
			if f, err = os.OpenFile(path, os.O_RDWR, 0); err == nil {
				err = f.Close()
			}
		}
		if errors.Is(err, fs.ErrPermission) {
			foreign = err
			return fs.SkipAll
		}
		return nil
	})
	return foreign
}

// sameProgram says whether another process runs the file that this one runs, whatever it is called.
func sameProgram(pid string) bool {
	if pid == strconv.Itoa(os.Getpid()) {
		return false
	}
	theirs, err := os.Stat(filepath.Join("/proc", pid, "exe"))
	if err != nil {
		return false
	}
	ours, err := os.Stat("/proc/self/exe")
	return err == nil && os.SameFile(theirs, ours)
}

// lockOwner is the process that the lock file names.
func lockOwner(dir string) (pid, name string) {
	text, _ := os.ReadFile(filepath.Join(dir, "lock"))
	pid = strings.TrimSpace(string(text))
	if _, err := strconv.Atoi(pid); err != nil {
		return "of unknown id", "?"
	}
	comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
	if err != nil {
		return pid, "?"
	}
	return pid, strings.TrimSpace(string(comm))
}
