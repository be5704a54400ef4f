package telemetrypb

import (
	"fmt"
	"strings"
	"testing"
)

func TestUpdateOutcome(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	for _, o := range []Outcome{UpdateRefused, UpdateInstalled, UpdateCommitted, UpdateRolledBack, UpdateFailed} {
		u := UpdateOutcome{Campaign: "c-1", SHA256: sum, ECU: "agent", From: "1.2.2", To: "1.2.3", Outcome: o, Reason: "crash"}
		r, err := u.Result()
		if err != nil {
			t.Fatal(err)
		}
		if r.GetId() != "update.c-1."+sum[:32] || r.GetName() != "update" {
			t.Errorf("%v", r)
		}
		back, err := ParseUpdateOutcome(r.GetId(), r.GetState(), r.GetReason(), r.GetText())
		if err != nil || *back != u {
			t.Errorf("%+v %v", back, err)
		}
		// What does not belong together is not believed.
		if _, err := ParseUpdateOutcome(r.GetId()+"0", r.GetState(), "", r.GetText()); err == nil {
			t.Error("another id")
		}
		if _, err := ParseUpdateOutcome(r.GetId(), "accepted", "", r.GetText()); err == nil {
			t.Error("another state")
		}
	}
	for _, u := range []UpdateOutcome{{SHA256: sum, Outcome: UpdateFailed}, {Campaign: "c", Outcome: UpdateFailed}, {Campaign: "c", SHA256: sum, Outcome: "other"}} {
		if r, err := u.Result(); err == nil {
			t.Errorf("%v", r)
		}
	}
}

// Reckoned by hand: printf 'default/car-0001' | sha256sum, its first 16 digits modulo 100.
func TestCohort(t *testing.T) {
	for _, v := range []struct {
		tenant, device string
		want           int
	}{{"default", "car-0001", 41}, {"default", "car-0002", 69}, {"oem", "VÜ7", 57}} {
		if got := Cohort(v.tenant, v.device); got != v.want {
			t.Errorf("%s/%s is in cohort %d, want %d", v.tenant, v.device, got, v.want)
		}
	}
	// They are alike in size: 10,000 vehicles, 100 ± 50 a cohort (five standard deviations).
	var count [Cohorts]int
	for i := range 10_000 {
		count[Cohort("default", fmt.Sprintf("car-%05d", i))]++
	}
	for c, n := range count {
		if n < 50 || n > 150 {
			t.Errorf("cohort %d has %d vehicles", c, n)
		}
	}
}
