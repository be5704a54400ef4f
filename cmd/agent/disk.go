package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// alarmDisk says that nothing reaches the queue's disk.
const alarmDisk = "queue.disk"

// diskAlarm says what a commit failed of, what is at risk, and what to do.
func diskAlarm(err error, dir string, waiting pipeline.Depth) string {
	what, remedy := "the queue cannot be written", "look at the kernel's log"
	switch {
	case errors.Is(err, buffer.ErrFull):
		what, remedy = "the queue has no room", "make room on the file system of "+dir+", or give the queue more (queue.max_bytes, lanes, min_free)"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		what, remedy = "the disk is full", "make room on the file system of "+dir
	case errors.Is(err, syscall.EROFS):
		what, remedy = "the file system is read-only", "look into the kernel's log for what made it so, check it, and mount "+dir+" writable; where the kernel refuses that, stop the agent first"
	case errors.Is(err, syscall.EIO):
		what, remedy = "the disk fails", "look at the kernel's log; flash that is worn out has to be replaced"
	}
	return fmt.Sprintf("%s: %v; %d sealed batches, %d bytes, are in memory only and lost with the power, and when memory is full the oldest go and are counted; "+
		"nothing new is sent meanwhile; %s. It is tried again each commit_every", what, err, waiting.Batches, waiting.Bytes, remedy)
}

// diskFails raises the alarm, or renews its text.
func (a *agent) diskFails(err error) {
	var waiting pipeline.Depth
	for lane := telemetrypb.Lane_LANE_CONTROL; lane <= telemetrypb.Lane_LANE_RAW; lane++ {
		d := a.pipe.Uncommitted(lane)
		waiting.Batches, waiting.Bytes = waiting.Batches+d.Batches, waiting.Bytes+d.Bytes
	}
	a.alarms.Raise(alarmDisk, diskAlarm(err, filepath.Join(a.settings.DataDir, "queue"), waiting))
}

// keepBoot writes the number of this boot if the disk did not take it at the start.
func (a *agent) keepBoot() {
	if !a.boot.unsaved {
		return
	}
	if err := a.boot.save(a.settings.DataDir); err != nil {
		a.log.Debug("the number of this boot cannot be kept", "error", err)
		return
	}
	a.boot.unsaved = false
}
