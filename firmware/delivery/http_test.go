package delivery

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
)

const oneMiB = 1 << 20

// half leaves a download in a folder of which the first half is there.
func half(t *testing.T, dir string, image []byte) {
	t.Helper()
	s := newSite(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(image)))
		_, _ = w.Write(image[:len(image)/2])
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := options(dir, image, s.URL)
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	o.Gate = nil
	d.o.Gate = func() (bool, string) {
		if d.Progress().Have >= int64(len(image)/2) {
			cancel()
		}
		return true, ""
	}
	if _, err := d.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("ends with %v", err)
	}
	if have := d.Progress().Have; have != int64(len(image)/2) {
		t.Fatalf("%d bytes are there", have)
	}
}

func TestRangesOfAnInterruptedDownload(t *testing.T) {
	image, dir := noise(1, oneMiB+123), t.TempDir()
	half(t, dir, image)
	s := newSite(t, serve(image, `"a"`))
	d := deliver(t, options(dir, image, s.URL))
	have := int64(len(image) / 2)
	if want := int64(len(image)) - have + leastBlock; s.sent.Load() > want {
		t.Errorf("%d bytes sent, want at most %d", s.sent.Load(), want)
	}
	if s.requests.Load() != 1 {
		t.Errorf("asked for %q", s.asked())
	}
	// Once there, it costs nothing, and is verified each time.
	run(t, d)
	f, err := d.Finished()
	if err != nil {
		t.Fatal(err)
	}
	isImage(t, d, f)
	if s.requests.Load() != 1 {
		t.Errorf("fetched what is there: %q", s.asked())
	}
	if err := d.Discard(); err != nil {
		t.Fatal(err)
	}
	if f, err := d.Finished(); err == nil {
		f.Close()
		t.Error("it is there after Discard")
	}
}

// A server that knows no ranges gives its whole file, and what is missing is taken of it.
func TestServerThatIgnoresRanges(t *testing.T) {
	image, dir := noise(2, oneMiB), t.TempDir()
	half(t, dir, image)
	s := newSite(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(image)))
		_, _ = w.Write(image)
	})
	good := newSite(t, serve(image, ""))
	deliver(t, options(dir, image, s.URL, good.URL))
	if s.requests.Load() != 1 || good.sent.Load() > int64(len(image)/2)+leastBlock {
		t.Errorf("%d requests to the server without ranges, %d bytes from the other", s.requests.Load(), good.sent.Load())
	}

	dir = t.TempDir()
	half(t, dir, image)
	deliver(t, options(dir, image, s.URL)) // the only one there is
	if s.requests.Load() != 2 {
		t.Errorf("%d requests", s.requests.Load())
	}
}

// A file that changed on the server has another tag: If-Range makes it answer 200, and its ranges are asked for by the new one.
func TestChangedTagKeepsBlocks(t *testing.T) {
	image := noise(3, oneMiB)
	n := 0
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		if n == 1 {
			w.Header().Set("ETag", `"old"`)
			w.Header().Set("Content-Length", fmt.Sprint(len(image)))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(image)-1, len(image)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(image[:len(image)/2])
			return
		}
		if n == 2 && r.Header.Get("If-Range") != `"old"` {
			t.Errorf("If-Range %q", r.Header.Get("If-Range"))
		}
		if n == 2 { // whoever asks for the rest of the old one gets the new one
			w.Header().Set("ETag", `"new"`)
			w.Header().Set("Content-Length", fmt.Sprint(len(image)))
			return
		}
		serve(image, `"new"`)(w, r)
	})
	deliver(t, options(t.TempDir(), image, s.URL))
	asked := s.asked()
	if last := asked[len(asked)-1]; last != fmt.Sprintf("bytes=%d-%d", len(image)/2, len(image)-1) {
		t.Errorf("asked for %q", asked)
	}
	if most := int64(len(image)) + leastBlock; s.sent.Load() > most {
		t.Errorf("%d bytes sent", s.sent.Load())
	}
}

func TestPreconditionFailedAndRangeNotSatisfiable(t *testing.T) {
	image := noise(4, 10*leastBlock)
	for _, status := range []int{http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable} {
		n := 0
		s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
			n++
			switch {
			case n == 1:
				w.Header().Set("ETag", `"a"`)
				w.Header().Set("Content-Length", fmt.Sprint(len(image)))
				_, _ = w.Write(image[:len(image)/2])
			case status == http.StatusPreconditionFailed && r.Header.Get("If-Range") != "",
				status == http.StatusRequestedRangeNotSatisfiable && r.Header.Get("Range") != "":
				w.WriteHeader(status)
			default:
				serve(image, "")(w, r)
			}
		})
		deliver(t, options(t.TempDir(), image, s.URL))
		if n != 3 {
			t.Errorf("%d: %d requests, %q", status, n, s.asked())
		}
	}
}

// What hostile or broken servers answer: refused without harm, and the next mirror is asked.
func TestHostileServers(t *testing.T) {
	t.Parallel()
	image := noise(5, 20*leastBlock)
	size := len(image)
	elsewhere := newSite(t, serve(image, ""))
	ranged := func(contentRange string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(body)
		}
	}
	endless := func(w http.ResponseWriter) {
		junk := noise(9, 1<<16)
		for range 1 << 12 { // 256 MiB, unless the client ends it
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	}
	for name, handle := range map[string]http.HandlerFunc{
		"endless body of 200": func(w http.ResponseWriter, _ *http.Request) { endless(w) },
		"endless body of a range": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", size-1, size))
			w.WriteHeader(http.StatusPartialContent)
			endless(w)
		},
		"no Content-Range":          ranged("", image),
		"a range that is not asked": ranged(fmt.Sprintf("bytes 5-%d/%d", size-1, size), image[5:]),
		"a range before the file":   ranged(fmt.Sprintf("bytes -5-%d/%d", size-1, size), image),
		"a range backwards":         ranged(fmt.Sprintf("bytes 10-0/%d", size), image),
		"beyond the length":         ranged(fmt.Sprintf("bytes 0-%d/%d", size, size), image),
		"beyond 32 bits":            ranged(fmt.Sprintf("bytes 4294967296-%d/%d", 4294967296+int64(size)-1, size), image),
		"0, and 2^32 of them":       ranged("bytes 0-4294967295/4294967296", image),
		"beyond 64 bits":            ranged("bytes 0-18446744073709551615/18446744073709551616", image),
		"of another length":         ranged(fmt.Sprintf("bytes 0-%d/%d", size-1, size+1), image),
		"less than a block":         ranged(fmt.Sprintf("bytes 0-0/%d", size), image[:1]),
		"a byte each time": func(w http.ResponseWriter, r *http.Request) {
			first := 0
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first)
			ranged(fmt.Sprintf("bytes %d-%d/%d", first, first, size), image[first:first+1])(w, r)
		},
		"several parts": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "multipart/byteranges; boundary=x")
			ranged(fmt.Sprintf("bytes 0-%d/%d", size-1, size), image)(w, r)
		},
		"longer file":  serve(append(image[:size:size], 1), ""),
		"shorter file": serve(image[:size-1], ""),
		"404":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"500":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"304":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) },
		"503, later": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "99999999999999999999")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"not HTTP": func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := w.(countedWriter).ResponseWriter.(http.Hijacker).Hijack()
			_, _ = c.Write([]byte("\x00\xff\n\n"))
			c.Close()
		},
		"redirects in a circle": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) },
		"redirect to http": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/x", http.StatusFound)
		},
		"redirect to a file": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		},
		"compressed": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(image)
			_ = z.Close()
		},
		"wrong length announced": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(size-100))
			ranged(fmt.Sprintf("bytes 0-%d/%d", size-1, size), image[:size-100])(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			hostile := newSite(t, handle)
			o := options(t.TempDir(), image, hostile.URL, elsewhere.URL)
			var log bytes.Buffer
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			deliver(t, o)
			// Only bytes that are wrong in the right place may be found out as late as by the hash.
			if late := strings.Contains(log.String(), "not what was signed"); late != strings.HasPrefix(name, "endless") {
				t.Errorf("found out by the hash: %t\n%s", late, &log)
			}
			if hostile.requests.Load() == 0 {
				t.Error("it was not asked")
			}
			if name != "redirects in a circle" && hostile.requests.Load() > 4 {
				t.Errorf("it was asked %d times", hostile.requests.Load())
			}
		})
	}
}

// Bytes that are wrong where all the rest is right: both mirrors are tried, then it is given up, for good.
func TestWrongImageIsFetchedTwiceAndNoMore(t *testing.T) {
	image := noise(6, 10*leastBlock)
	wrong := bytes.Clone(image)
	wrong[5*leastBlock] ^= 1
	bad := newSite(t, serve(wrong, ""))
	good := newSite(t, serve(image, ""))
	deliver(t, options(t.TempDir(), image, bad.URL, good.URL))
	if bad.requests.Load() != 1 || good.requests.Load() != 1 {
		t.Errorf("%d and %d requests", bad.requests.Load(), good.requests.Load())
	}

	o := options(t.TempDir(), image, bad.URL)
	refused(t, o, ErrMismatch)
	if sent := bad.sent.Load(); sent != int64(3*len(image)) {
		t.Errorf("%d bytes sent", sent)
	}
	refused(t, o, ErrMismatch) // after a restart
	if sent := bad.sent.Load(); sent != int64(3*len(image)) {
		t.Errorf("%d bytes sent after it was given up", sent)
	}
	o.Campaign, o.Mirrors = "c2", []Mirror{{Base: good.URL}}
	deliver(t, o)
}

// A mirror that is too slow is left for the next one.
func TestSlowMirror(t *testing.T) {
	image := noise(7, 4*leastBlock)
	slow := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(image)))
		_, _ = w.Write(image[:10])
		w.(countedWriter).ResponseWriter.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	good := newSite(t, serve(image, ""))
	o := options(t.TempDir(), image, slow.URL, good.URL)
	o.Window = 20 * time.Millisecond
	deliver(t, o)
	if good.requests.Load() == 0 {
		t.Error("the slow one brought it")
	}
}

func TestMirrorsThatAreRefused(t *testing.T) {
	image := noise(8, 10)
	for _, base := range []string{"http://example.org/", "ftp://127.0.0.1/", "https:///x", "https://a/?q=1", "https://a/#f", "::"} {
		if _, err := New(options(t.TempDir(), image, base)); err == nil {
			t.Errorf("%s is taken", base)
		}
	}
}

// Loopback is not to be reached by a redirect from outside.
func TestRedirectFromOutsideToLoopback(t *testing.T) {
	m, err := newMirror(Mirror{Base: "https://mirror.example/"}, 100, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for target, ok := range map[string]bool{"https://other.example/x": true, "http://127.0.0.1/x": false, "https://127.0.0.1/x": false, "http://other.example/x": false} {
		r, err := http.NewRequest(http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.client.CheckRedirect(r, nil); (err == nil) != ok {
			t.Errorf("redirect to %s: %v", target, err)
		}
	}
}

func TestValidators(t *testing.T) {
	for _, c := range []struct{ tag, modified, date, want string }{
		{`"a"`, "", "", `"a"`},
		{`W/"a"`, "Mon, 02 Jan 2006 15:04:05 GMT", "Mon, 02 Jan 2006 15:05:05 GMT", ""},
		{"a", "", "", ""},
		{`"` + strings.Repeat("a", 300) + `"`, "", "", ""},
		{"", "Mon, 02 Jan 2006 15:04:05 GMT", "Mon, 02 Jan 2006 15:05:05 GMT", "Mon, 02 Jan 2006 15:04:05 GMT"},
		{"", "Mon, 02 Jan 2006 15:04:05 GMT", "Mon, 02 Jan 2006 15:04:05 GMT", ""}, // changed within the second: weak
		{"", "Mon, 02 Jan 2006 15:04:05 GMT", "", ""},
	} {
		h := http.Header{}
		for k, v := range map[string]string{"ETag": c.tag, "Last-Modified": c.modified, "Date": c.date} {
			if v != "" {
				h.Set(k, v)
			}
		}
		if got := validatorOf(h); got != c.want {
			t.Errorf("%+v gives %q", c, got)
		}
	}
}

// The gate closes in the middle: at most a block more is read, and it goes on when it opens.
func TestGate(t *testing.T) {
	image := noise(9, 40*leastBlock)
	s := newSite(t, serve(image, ""))
	o := options(t.TempDir(), image, s.URL)
	var d *Delivery
	closed, looks := int64(-1), 0
	o.Gate = func() (bool, string) {
		have := d.Progress().Have
		if have < int64(len(image)/2) || looks > 20 {
			return true, ""
		}
		if closed < 0 {
			closed = have
		}
		if looks++; have > closed {
			t.Errorf("%d bytes after the gate closed", have-closed)
		}
		return false, "no Wi-Fi"
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, d)
	if looks < 20 || closed > int64(len(image)/2+leastBlock) {
		t.Errorf("the gate was looked at %d times, first at %d", looks, closed)
	}
}

// The budget ends a download, over restarts too, and a larger one goes on with what is there.
func TestBudget(t *testing.T) {
	t.Parallel()
	image := noise(10, 40*leastBlock)
	s := newSite(t, serve(image, ""))
	o := options(t.TempDir(), image, s.URL)
	o.Budget = int64(len(image) / 2)
	d := refused(t, o, ErrBudget)
	if have := d.Progress().Have; have > o.Budget || have < o.Budget-2*leastBlock {
		t.Errorf("%d bytes for a budget of %d", have, o.Budget)
	}
	sent := s.sent.Load()
	refused(t, o, ErrBudget)
	if s.sent.Load() != sent {
		t.Errorf("%d bytes after it was spent", s.sent.Load()-sent)
	}
	o.Budget = 2 * int64(len(image))
	d = deliver(t, o)
	if got := d.Progress().Received; got < int64(len(image)) || got > int64(len(image))+32<<10 {
		t.Errorf("%d bytes counted for an image of %d", got, len(image))
	}
	// Another campaign begins at 0.
	o.Campaign, o.Budget = "c2", int64(len(image)/2)
	o.Image = signed{noise(11, 4*leastBlock)}
	s2 := newSite(t, serve(o.Image.(signed).data, ""))
	o.Mirrors = []Mirror{{Base: s2.URL}}
	deliver(t, o)
}
