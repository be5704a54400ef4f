package can

import "testing"

func TestStamper(t *testing.T) {
	const second, ms = int64(1e9), int64(1e6)
	const wall, boot = 1_700_000_000 * second, 5000 * second
	type read struct{ stamp, wall, boot, want int64 }
	tests := []struct {
		name               string
		emptied            int64
		reads              []read
		unstamped, clamped uint64
	}{
		{"age is taken off", boot - second, []read{{wall - 3*ms, wall, boot, boot - 3*ms}}, 0, 0},
		{"a frame without a stamp is of now", boot - second, []read{{0, wall, boot, boot}}, 1, 0},
		{"the clock was set back after the stamp", boot - second, []read{{wall + 3600*second, wall, boot, boot}}, 0, 1},
		{"the clock was set forward after the stamp", boot - second, []read{{wall - 3600*second, wall, boot, boot - second - deliverySlack}}, 0, 1},
		{"a frame was under way when the socket was empty", boot - second, []read{{wall - second - 5*ms, wall, boot, boot - second - 5*ms}}, 0, 0},
		{"frames stay in order", boot - second, []read{
			{wall - 1*ms, wall, boot, boot - 1*ms}, {wall - 2*ms, wall, boot, boot - 1*ms}, {0, wall, boot, boot}, {wall + 1*ms, wall + 2*ms, boot + 2*ms, boot + 1*ms},
		}, 1, 0},
		{"a long wait in the buffer is not impossible", boot - 600*second, []read{{wall - 500*second, wall, boot, boot - 500*second}}, 0, 0},
	}
	for _, test := range tests {
		s := stamper{emptied: test.emptied}
		for i, r := range test.reads {
			if got := s.boot(r.stamp, r.wall, r.boot); got != r.want {
				t.Errorf("%s: frame %d has %d, want %d (%d from it)", test.name, i, got, r.want, got-r.want)
			}
		}
		if s.unstamped != test.unstamped || s.clamped != test.clamped {
			t.Errorf("%s: %d unstamped, %d clamped", test.name, s.unstamped, s.clamped)
		}
	}
}
