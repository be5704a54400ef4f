package firmware

import (
	"runtime"
	"strings"
	"testing"
)

func TestIdentityNamesTheHardwareThatRuns(t *testing.T) {
	id := Current()
	if !strings.HasPrefix(id.Hardware, runtime.GOOS+"/"+runtime.GOARCH) {
		t.Errorf("hardware %q on %s/%s", id.Hardware, runtime.GOOS, runtime.GOARCH)
	}
	if !strings.Contains(id.String(), id.Version) || !strings.Contains(id.String(), runtime.Version()) {
		t.Errorf("%q names neither version nor toolchain", id)
	}
}

func TestBuildTimeIsParsedOrLeftOut(t *testing.T) {
	defer func(old string) { built = old }(built)
	built = "2026-11-22T10:00:00+01:00"
	if got := Current().Built.Format("2006-01-02T15:04:05Z"); got != "2026-11-22T09:00:00Z" {
		t.Errorf("built %s", got)
	}
	built = "yesterday"
	if !Current().Built.IsZero() {
		t.Error("a build time that cannot be read was taken")
	}
}
