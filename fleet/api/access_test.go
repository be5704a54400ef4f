package api_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/test/fleetdata"
)

func line(tenant, token, right string) string {
	return fmt.Sprintf("%s: %x %s\n", tenant, sha256.Sum256([]byte(token)), right)
}

// Who may read what, who may erase, what an erasure takes away, and that nothing of it comes back; in one test, since filling a store is slow.
func TestTokensErasureAndLive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("# who may what\n"+line("*", "all", "")+line("acme", "a", "erase")+line("borealis", "b", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.OpenTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, tokens)
	w.refused("GET", "/devices", 401)
	w.token = "wrong"
	w.refused("GET", "/live", 401)
	w.token = "b"
	if list := all[api.Device](w, "/devices"); len(list) != 1 || list[0].Tenant != fleetdata.Second {
		t.Errorf("tenant borealis sees %+v", list)
	}
	for _, path := range []string{"", "/signals", "/track", "/trips", "/events", "/series?signal=agent.note"} {
		w.refused("GET", "/devices/acme/car-01"+path, 404)
	}
	w.refused("GET", "/gaps?tenant=acme", 400)
	if list := all[api.DeadLetter](w, "/dead-letters"); len(list) != 0 {
		t.Errorf("another tenant's dead letters: %+v", list)
	}
	w.refused("DELETE", "/devices/acme/car-01", 404)
	w.refused("DELETE", "/devices/borealis/van-1", 403)
	w.token = "all"
	if list := all[api.Device](w, "/devices"); len(list) != 13 {
		t.Errorf("%d devices", len(list))
	}
	live(t, w)
	w.token = "a"
	erase(t, w)

	// The file is read again; a wrong one lets nobody in.
	later := time.Now().Add(time.Minute)
	if err := os.WriteFile(file, []byte("acme: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, later, later); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); tokens.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the file is not read again")
		}
	}
	w.refused("GET", "/devices", 401)
}

func erase(t *testing.T, w *world) {
	ctx := context.Background()
	count := func() (n int) {
		if err := w.store.Samples(ctx, store.Query{Device: fleetdata.Parked}, func(*store.Reading) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before, others := count(), w.store.Totals()
	r := w.do("DELETE", "/devices/acme/"+fleetdata.Parked)
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		t.Fatalf("%s %v\n%s", r.Status, err, text)
	}
	w.schemas.check(t, "DELETE", "/devices/acme/"+fleetdata.Parked, 200, text)
	if !strings.Contains(string(text), fmt.Sprintf(`"samples":%d,`, before)) {
		t.Errorf("%d samples were there; the answer says %s", before, text)
	}
	after := w.store.Totals()
	if count() != 0 || after.Samples != others.Samples-int64(before) || after.Parked != 0 || after.Batches != others.Batches || after.Gaps != others.Gaps {
		t.Errorf("%d samples left; totals %+v, before %+v", count(), after, others)
	}
	d := get[api.DeviceDetail](w, "/devices/acme/"+fleetdata.Parked)
	if d.Position != nil || d.Info != nil || d.Queue != nil {
		t.Errorf("still there: %+v", d)
	}
	// All that it ever sent, sent again.
	w.take(w.fleet[fleetdata.Parked].Messages)
	if again := w.store.Totals(); count() != 0 || again.Samples != after.Samples || again.Parked != 0 {
		t.Errorf("%d samples came back; totals %+v", count(), again)
	}
	// What it drives from now on is stored as ever.
	w.advance(time.Minute)
	w.take(w.fleet[fleetdata.Parked].More(time.Minute))
	if count() == 0 {
		t.Error("what came after the erasure is not there")
	}
	if list := all[api.Signal](w, "/devices/acme/car-01/signals"); len(list) < 10 || list[1].Last == nil {
		t.Errorf("another car lost something: %+v", list)
	}
}

// live watches the stream while a car drives on.
func live(t *testing.T, w *world) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, "GET", w.server.URL+api.Prefix+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+w.token)
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, 1<<20)
	sent := false
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		w.schemas.validate(t, "#/components/schemas/Live", "live", []byte(data))
		if sent && strings.Contains(data, `"device":"car-11"`) {
			if strings.Contains(data, `"device":"car-12"`) {
				t.Errorf("a car that was not heard of: %s", data)
			}
			return
		}
		if !sent {
			sent = true
			w.advance(3 * time.Second)
			w.take(w.fleet["car-11"].More(time.Minute))
		}
	}
	t.Errorf("the stream ended before the car was seen: %v", lines.Err())
}
