//go:build system

package vm

import "testing"

// TestUpdateOnAnEmulatedVehicle is TestUpdateInAGuest on the processor, the kernel and the disk of a head unit, with one ignition cycle
// and one of the three versions that do not work.
func TestUpdateOnAnEmulatedVehicle(t *testing.T) {
	w := newWorkshop(t, "arm64", shortCourse)
	follow := Build(t, "arm64", "build", "./test/vm/update")
	disk := w.disk(t)
	w.follow(t, disk, NewEmulatedBed(t, "arm64", Job{
		Command: []string{"/bin/follow", "", "/dev/vda", "/tmp/mnt"}, Disks: []string{disk}, Interfaces: []string{"vcan0"},
		Timeout: updateTime, Memory: 1024,
	}, map[string]string{"/bin/follow": follow}))
}
