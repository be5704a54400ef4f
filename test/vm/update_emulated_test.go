//go:build system

package vm

import "testing"

// TestUpdateOnAnEmulatedVehicle is TestUpdateInAGuest on the processor, the kernel and the disk of a head unit, with two ignition
// cycles and the version that cannot read its bus.
func TestUpdateOnAnEmulatedVehicle(t *testing.T) {
	w := newWorkshop(t, "arm64", updateCourse{cycles: 2, campaigns: []updateCampaign{healthy, deaf, again}})
	follow := Build(t, "arm64", "build", "./test/vm/update")
	disk := w.disk(t)
	w.follow(t, disk, NewEmulatedBed(t, "arm64", Job{
		Command: []string{"/bin/follow", "", "/dev/vda", "/tmp/mnt"}, Disks: []string{disk}, Interfaces: []string{"vcan0"},
		Timeout: updateTime, Memory: 1024,
	}, map[string]string{"/bin/follow": follow}))
}
