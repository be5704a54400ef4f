package page

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/local"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const patience = time.Minute // the machine of the tests may be busy

// bench is a Server that runs.
type bench struct {
	*Server
	http    *httptest.Server
	address string
	table   *Table
	alarm   atomic.Pointer[string]
	looks   [3]atomic.Int64
	beats   atomic.Int64
}

func newBench(t *testing.T, guard Guard, linger time.Duration) *bench {
	t.Helper()
	b := &bench{table: testTable()}
	b.Server = New(Options{
		State: func() local.State {
			s := local.State{Format: local.Format, Now: local.Now{BootMS: b.beats.Add(1)}, Agent: local.Agent{Device: "car"}}
			if text := b.alarm.Load(); text != nil {
				s.Alarms = append(s.Alarms, local.Alarm{Name: "a", Text: *text})
			}
			return s
		},
		Boot: func() int64 { return 1e9 }, Table: b.table, Linger: linger,
		OnLook: func(l Look) { b.looks[l].Add(1) },
		Log:    slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	b.http = httptest.NewServer(b.Handler(guard))
	b.address = strings.TrimPrefix(b.http.URL, "http://")
	t.Cleanup(func() { cancel(); run.Wait(); b.http.Close() })
	return b
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: ", what)
		}
	}
}

// A follower gets the whole, then what changes; when the last one is gone, nothing goes on.
func TestFollow(t *testing.T) {
	b := newBench(t, Guard{}, time.Millisecond)
	client := local.NewClient(b.address, "")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text := "first"
	events := 0
	enough := errors.New("enough")
	err := client.Follow(ctx, func(v *local.View) error {
		events++
		switch {
		case events == 1:
			if v.State.Agent.Device != "car" || len(v.State.Alarms) != 0 {
				t.Errorf("the first state is not whole: %+v", v.State)
			}
		case events == 2:
			if len(v.Signals.Signals) != 3 {
				t.Errorf("the first signals are not whole: %+v", v.Signals)
			}
			b.alarm.Store(&text)
			b.table.Take([]telemetrypb.Sample{telemetrypb.IntSample(1, 1e9, 150)})
		case len(v.State.Alarms) == 1 && v.Signals.Signals[0].Value.Value == 10 && v.State.Alarms[0].Text == text:
			if v.State.Agent.Device != "car" {
				t.Error("what did not change is gone")
			}
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	await(t, "the end of the looking", func() bool { return b.looks[LookEnds].Load() == 1 })
	if b.looks[LookBegins].Load() != 1 || b.looks[LookGoesOn].Load() == 0 {
		t.Errorf("looks: %d began, %d times it went on", b.looks[LookBegins].Load(), b.looks[LookGoesOn].Load())
	}
	if b.table.on.Load() {
		t.Error("the table goes on for nobody")
	}
}

// One question for signals waits for their values, and one for the state does not look at any.
func TestAskOnce(t *testing.T) {
	b := newBench(t, Guard{}, time.Hour)
	client := local.NewClient(b.address, "")
	state, err := client.State(context.Background())
	if err != nil || state.Agent.Device != "car" || b.looks[LookBegins].Load() != 0 {
		t.Fatalf("%+v, %v, %d looks", state, err, b.looks[LookBegins].Load())
	}
	done := make(chan struct{})
	go func() { // a bus that tells its signals
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				b.table.Take([]telemetrypb.Sample{telemetrypb.IntSample(1, 1e9, 60)})
			}
		}
	}()
	defer close(done)
	signals, err := client.Signals(context.Background())
	if err != nil || len(signals.Signals) != 3 || signals.Signals[0].Value.Value != 1 || len(signals.Signals[0].History) == 0 {
		t.Errorf("%+v, %v", signals, err)
	}
}

// What ends is told, and so is who is one too many.
func TestEnds(t *testing.T) {
	b := newBench(t, Guard{}, time.Hour)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var followers sync.WaitGroup
	began := make(chan struct{}, maxViewers)
	for range maxViewers {
		followers.Go(func() {
			first := true
			err := local.NewClient(b.address, "").Follow(ctx, func(*local.View) error {
				if first {
					first = false
					began <- struct{}{}
				}
				return nil
			})
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error("a follower whose agent ended:", err)
			}
		})
	}
	for range maxViewers {
		<-began
	}
	if _, err := local.NewClient(b.address, "").Signals(ctx); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Error("one too many:", err)
	}
	b.end()
	followers.Wait()
	b.http.Close()
	if _, err := local.NewClient(b.address, "").State(ctx); !errors.Is(err, local.ErrNotRunning) {
		t.Error("of an agent that is gone:", err)
	}
	if _, err := local.NewClient("unix:"+t.TempDir()+"/none.sock", "").State(ctx); !errors.Is(err, local.ErrNotRunning) {
		t.Error("of a socket that is not there:", err)
	}
}

// Who may ask, and who may not.
func TestGuard(t *testing.T) {
	const token = "0123456789abcdef"
	open, closed, socket := Guard{}, Guard{Token: token}, Guard{AnyHost: true}
	for _, c := range []struct {
		name   string
		guard  Guard
		method string
		host   string
		header map[string]string
		want   int
	}{
		{"loopback", open, "GET", "127.0.0.1:9464", nil, 200},
		{"loopback, six", open, "GET", "[::1]:9464", nil, 200},
		{"localhost through a tunnel", open, "GET", "localhost:8080", nil, 200},
		{"no port", open, "GET", "LOCALHOST", nil, 200},
		{"another of this machine", open, "GET", "127.5.5.5", nil, 200},
		{"rebound name", open, "GET", "attacker.example:9464", nil, 403},
		{"name that only looks like it", open, "GET", "127.0.0.1.attacker.example", nil, 403},
		{"localhost of another", open, "GET", "localhost.attacker.example", nil, 403},
		{"address of another", open, "GET", "192.0.2.1:9464", nil, 403},
		{"no host", open, "GET", "", nil, 403},
		{"changing something", open, "POST", "127.0.0.1", nil, 405},
		{"asking what may be asked", open, "OPTIONS", "127.0.0.1", nil, 405},
		{"own page", open, "GET", "127.0.0.1:9464",
			map[string]string{"Origin": "http://127.0.0.1:9464", "Sec-Fetch-Site": "same-origin"}, 200},
		{"by hand", open, "GET", "127.0.0.1:9464", map[string]string{"Sec-Fetch-Site": "none"}, 200},
		{"foreign page", open, "GET", "127.0.0.1:9464", map[string]string{"Origin": "https://attacker.example"}, 403},
		{"other port", open, "GET", "127.0.0.1:9464", map[string]string{"Origin": "http://127.0.0.1:8000"}, 403},
		{"sandboxed page", open, "GET", "127.0.0.1:9464", map[string]string{"Origin": "null"}, 403},
		{"foreign page without an origin", open, "GET", "127.0.0.1:9464", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"token", closed, "GET", "car.local:9464", map[string]string{"Authorization": "Bearer " + token}, 200},
		{"no token", closed, "GET", "127.0.0.1:9464", nil, 401},
		{"wrong token", closed, "GET", "127.0.0.1:9464", map[string]string{"Authorization": "Bearer 0123456789abcdeg"}, 401},
		{"beginning of the token", closed, "GET", "127.0.0.1:9464", map[string]string{"Authorization": "Bearer 0123"}, 401},
		{"token without its word", closed, "GET", "127.0.0.1:9464", map[string]string{"Authorization": token}, 401},
		{"token of a foreign page", closed, "GET", "car.local",
			map[string]string{"Authorization": "Bearer " + token, "Origin": "http://a"}, 403},
		{"socket", socket, "GET", "whatever", nil, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := httptest.NewRequest(c.method, "/api/state", nil)
			q.Host = c.host
			for name, value := range c.header {
				q.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			c.guard.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })).ServeHTTP(w, q)
			if w.Code != c.want {
				t.Errorf("%d, want %d: %s", w.Code, c.want, w.Body)
			}
			if w.Header().Get("Access-Control-Allow-Origin") != "" {
				t.Error("others are let in")
			}
		})
	}
}

// The page's files are there for everybody, what they ask for is not.
func TestPageAsksForTheToken(t *testing.T) {
	b := newBench(t, Guard{Token: "0123456789abcdef"}, time.Hour)
	for path, want := range map[string]int{"/": 200, "/js/main.js": 200, "/style.css": 200,
		"/js/": 404, "/none": 404, "/../server.go": 404,
		"/api/state": 401, "/api/signals": 401, "/api/events": 401, "/api/none": 401} {
		r, err := http.Get(b.http.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		policy := r.Header.Get("Content-Security-Policy")
		if r.StatusCode != want || want == 200 && !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%s: %d, want %d; %v", path, r.StatusCode, want, r.Header)
		}
	}
	if _, err := local.NewClient(b.address, "wrong").State(context.Background()); !errors.Is(err, local.ErrToken) {
		t.Error(err)
	}
	if _, err := local.NewClient(b.address, "0123456789abcdef").State(context.Background()); err != nil {
		t.Error(err)
	}
}
