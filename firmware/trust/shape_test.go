package trust

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/waybill-telematics/waybill/internal/durable"
)

// Foreign JSON that go-tuf dereferences before it has checked a signature, or that its signature check panics over.
func hostile() map[string][2]string {
	const head = `{"signatures":[{"keyid":"a","sig":"00"}],"signed":{"spec_version":"1.0.31","version":1,"expires":"2090-01-01T00:00:00Z",`
	return map[string][2]string{
		"target is null":         {metadata.TARGETS, head + `"_type":"targets","targets":{"a":null}}}`},
		"hash is null":           {metadata.TARGETS, head + `"_type":"targets","targets":{"a":{"length":1,"hashes":{"sha256":null}}}}}`},
		"delegation is null":     {metadata.TARGETS, head + `"_type":"targets","targets":{},"delegations":{"keys":{},"roles":[null]}}}`},
		"delegated key is null":  {metadata.TARGETS, head + `"_type":"targets","targets":{},"delegations":{"keys":{"a":null},"roles":[]}}}`},
		"role is called root":    {metadata.TARGETS, head + `"_type":"targets","targets":{},"delegations":{"keys":{},"roles":[{"name":"root","keyids":["a"],"threshold":1}]}}}`},
		"no threshold":           {metadata.TARGETS, head + `"_type":"targets","targets":{},"delegations":{"keys":{},"roles":[{"name":"a","keyids":["a"],"threshold":0}]}}}`},
		"paths and prefixes":     {metadata.TARGETS, head + `"_type":"targets","targets":{},"delegations":{"keys":{},"roles":[{"name":"a","keyids":["a"],"threshold":1,"paths":[],"path_hash_prefixes":[]}]}}}`},
		"33 bits of bins":        {metadata.TARGETS, head + `"_type":"targets","targets":{},"delegations":{"keys":{},"succinct_roles":{"keyids":["a"],"threshold":1,"bit_length":33,"name_prefix":"a"}}}}`},
		"snapshot is null":       {metadata.TIMESTAMP, head + `"_type":"timestamp","meta":{"snapshot.json":null}}}`},
		"no snapshot":            {metadata.TIMESTAMP, head + `"_type":"timestamp","meta":{}}}`},
		"two snapshots":          {metadata.TIMESTAMP, head + `"_type":"timestamp","meta":{"snapshot.json":{"version":1},"a.json":{"version":1}}}}`},
		"targets are null":       {metadata.SNAPSHOT, head + `"_type":"snapshot","meta":{"targets.json":null}}}`},
		"version below one":      {metadata.SNAPSHOT, head + `"_type":"snapshot","meta":{"targets.json":{"version":0}}}}`},
		"length below zero":      {metadata.SNAPSHOT, head + `"_type":"snapshot","meta":{"targets.json":{"version":1,"length":-1}}}}`},
		"no roles":               {metadata.ROOT, head + `"_type":"root","keys":{},"roles":{}}}`},
		"role is null":           {metadata.ROOT, head + `"_type":"root","keys":{},"roles":{"root":null,"timestamp":null,"snapshot":null,"targets":null}}}`},
		"key is null":            {metadata.ROOT, head + `"_type":"root","keys":{"a":null},"roles":{}}}`},
		"ed25519 of three bytes": {metadata.ROOT, head + `"_type":"root","keys":{"a":{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"aabbcc"}}},"roles":{}}}`},
		"another type":           {metadata.ROOT, head + `"_type":"targets","targets":{}}}`},
		"another specification":  {metadata.SNAPSHOT, strings.Replace(head, "1.0.31", "2.0.0", 1) + `"_type":"snapshot","meta":{"targets.json":{"version":1}}}}`},
		"nothing signed":         {metadata.ROOT, `{"signatures":[]}`},
		"null":                   {metadata.ROOT, `null`},
		"not JSON":               {metadata.ROOT, `<html>`},
		"deep":                   {metadata.TARGETS, head + `"_type":"targets","targets":{},"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}}`},
	}
}

func TestHostileJSON(t *testing.T) {
	for name, c := range hostile() {
		if err := checkShape(c[0], []byte(c[1])); err == nil || classify(err) != Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What checkShape does not know of is caught where go-tuf is called.
func TestAPanicOfOthersCodeIsARefusal(t *testing.T) {
	err := guard(func() error {
		_, err := metadata.Targets().FromBytes([]byte(`{"signed":{"_type":"targets","targets":{"a":null}}}`))
		return err
	})
	if err == nil || classify(err) != Malformed {
		t.Errorf("go-tuf does not panic over null any more, and %v", err)
	}
}

func TestWhichRolesSpeakOfAName(t *testing.T) {
	for _, c := range []struct {
		role metadata.DelegatedRole
		name string
		want bool
	}{
		{metadata.DelegatedRole{Paths: []string{"*"}}, "a", true},
		{metadata.DelegatedRole{Paths: []string{"*"}}, "a/b", false},
		{metadata.DelegatedRole{Paths: []string{"a/*.img"}}, "a/b.img", true},
		{metadata.DelegatedRole{Paths: []string{"a/?"}}, "a/bc", false},
		{metadata.DelegatedRole{Paths: []string{"[", "a"}}, "a", true},
		{metadata.DelegatedRole{}, "a", false},
		// printf file1.txt | sha256sum: 55ae75d991c770d8f3ef07cbfde124ffce9c420da5db6203afab700b27e10cf9
		{metadata.DelegatedRole{PathHashPrefixes: []string{"aa", "55AE"}}, "file1.txt", true},
		{metadata.DelegatedRole{PathHashPrefixes: []string{"ff"}}, "file1.txt", false},
		{metadata.DelegatedRole{PathHashPrefixes: []string{"Va512Z"}}, "file1.txt", false}, // base64, as go-tuf has it
	} {
		if got := speaksOf(&c.role, c.name); got != c.want {
			t.Errorf("%v of %s: %v", c.role, c.name, got)
		}
	}
}

func TestNamesOfFiles(t *testing.T) {
	for role, want := range map[string]string{"targets": "targets.json", "../x": "..%2Fx.json", "/x": "%2Fx.json", "?": "%3F.json", "#": "%23.json", "ä b": "%C3%A4%20b.json"} {
		if got := fileOf(role); got != want {
			t.Errorf("%s is kept in %s", role, got)
		}
	}
}

func TestReferenceFile(t *testing.T) {
	at := time.Date(2026, 11, 1, 2, 3, 4, 5, time.UTC)
	line := formatReference(at)
	if got, err := parseReference(line); err != nil || !got.Equal(at) {
		t.Fatal(got, err)
	}
	for i := range line[:len(line)-1] {
		bad := append([]byte(nil), line...)
		if bad[i] ^= 4; string(bad) != string(line) {
			if got, err := parseReference(bad); err == nil {
				t.Errorf("%q is read as %v", bad, got)
			}
		}
	}
	path := t.TempDir() + "/time"
	if err := durable.Write(path, []byte("9999-01-01T00:00:00Z 00000000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReference(ReferenceOptions{Path: path, Built: at, Clock: func() (time.Time, bool) { return at.AddDate(60, 0, 0), false }})
	if err != nil || !r.Now().Equal(at) {
		t.Errorf("a damaged file: %v %v", r.Now(), err)
	}
	if err := r.confirm(at.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r, err = OpenReference(ReferenceOptions{Path: path, Built: at, Clock: time1970})
	if err != nil || !r.Now().Equal(at.Add(time.Hour)) {
		t.Errorf("after a start: %v %v", r.Now(), err)
	}
}

func time1970() (time.Time, bool) { return time.Unix(0, 0), true }

// serving answers each file with the same bytes.
type serving []byte

func (s serving) Fetch(_ context.Context, _ string, _ int64, w io.Writer) error {
	_, err := w.Write(s)
	return err
}

// FuzzMetadata hands foreign bytes to each step of a refresh, behind a root that is trusted: whatever they are, the answer is a
// refusal. Only who has the keys could make it something else.
func FuzzMetadata(f *testing.F) {
	for _, c := range hostile() {
		if len(c[1]) < 4096 { // long seeds make it slow
			f.Add([]byte(c[1]))
		}
	}
	f.Add([]byte(fuzzRoot))
	store, err := OpenStore(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, kind := range metadata.TOP_LEVEL_ROLE_NAMES {
			if checkShape(kind, data) != nil {
				continue
			}
			// Behind the shape nothing may panic: guard is for what is not known.
			switch kind {
			case metadata.ROOT:
				if set, err := newSet(data); err == nil && set.Root.Signed.Version < 1 {
					t.Error("a root without a version")
				}
			case metadata.TARGETS:
				m, err := metadata.Targets().FromBytes(data)
				if err != nil || m.Signed.Delegations == nil {
					continue
				}
				delegated(m.Signed.Delegations, "a/b")
				_ = m.VerifyDelegate("a", m) // an error, most likely
			case metadata.SNAPSHOT:
				_, _ = metadata.Snapshot().FromBytes(data)
			case metadata.TIMESTAMP:
				_, _ = metadata.Timestamp().FromBytes(data)
			}
		}
		c, err := New(Options{Name: "fuzz", Mirrors: []Fetcher{serving(data)}, Store: store, FactoryRoot: []byte(fuzzRoot), Reference: func() time.Time { return at }})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Refresh(context.Background()); err == nil {
			t.Error("refreshed by bytes that nobody signed")
		}
	})
}

// FuzzCustom reads what repositories say beyond TUF.
func FuzzCustom(f *testing.F) {
	f.Add([]byte(`{"ecus":{"a":{"hardware_id":"b"}},"release_counter":1}`), "2026-01-01T00:00:00Z 00000000")
	f.Add([]byte(`{"hardware_ids":["a"],"release_counter":18446744073709551615}`), "")
	f.Fuzz(func(t *testing.T, custom []byte, line string) {
		var d directorCustom
		var i imageCustom
		_ = unmarshalCustom(json.RawMessage(custom), &d)
		_ = unmarshalCustom(json.RawMessage(custom), &i)
		if at, err := parseReference([]byte(line)); err == nil && at.IsZero() {
			t.Log("the zero time, rightly sealed")
		}
	})
}

// fuzzRoot is what trusttest.New(7, 2099-01-01) signs, whose keys the fuzzer does not have.
const fuzzRoot = `{"signatures":[{"keyid":"aed0b0c3defce8705b24446f0bcda6cfdc97ddff72155dd5e71071dc40d789b5","sig":"a0c9c708cc8353189e0d7d33e4b53c2e96726c2cccb50093ebe334da008cc139ffdc35a50aeeab4954adfe67952842c0b7f6d9687065fd83b7e25ffc5932ed09"}],"signed":{"_type":"root","consistent_snapshot":true,"expires":"2099-01-01T00:00:00Z","keys":{"aa283ba24842504e76046fd18a90fd6ab1ea75d64f27a3ebdebd496d4adbc2a3":{"keytype":"ed25519","keyval":{"public":"aee8e9c2ee2d5cbe9c8932bb8f2d54b31ea51a68daf19def78717abd56fd7964"},"scheme":"ed25519"},"aed0b0c3defce8705b24446f0bcda6cfdc97ddff72155dd5e71071dc40d789b5":{"keytype":"ed25519","keyval":{"public":"1b149823019ba9bbf1bf92bef3926dda997ba40def0cc20d000c1a11bc1cf3fb"},"scheme":"ed25519"},"b2de1ae3349b3b635cefef028f8753838031025f2613d72db64a536e3b1967d2":{"keytype":"ed25519","keyval":{"public":"617801d39c8ea91c59ea7cc5a8e7522d385ab3a6aab4ccd22dba36c93b11cfc5"},"scheme":"ed25519"},"c519b56246e62094c3a283b5456702045c28a27a967e9cfe2a206ffe50a53d39":{"keytype":"ed25519","keyval":{"public":"61705a9b890b9c4e795f6a35f6c48532c9fe06ffdf68c4ef46c18beb857056f2"},"scheme":"ed25519"}},"roles":{"root":{"keyids":["aed0b0c3defce8705b24446f0bcda6cfdc97ddff72155dd5e71071dc40d789b5"],"threshold":1},"snapshot":{"keyids":["aa283ba24842504e76046fd18a90fd6ab1ea75d64f27a3ebdebd496d4adbc2a3"],"threshold":1},"targets":{"keyids":["c519b56246e62094c3a283b5456702045c28a27a967e9cfe2a206ffe50a53d39"],"threshold":1},"timestamp":{"keyids":["b2de1ae3349b3b635cefef028f8753838031025f2613d72db64a536e3b1967d2"],"threshold":1}},"spec_version":"1.0.31","version":1}}`
