package deps

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// PostgreSQL is a server on a free port of the loopback. It serves as a [Broker] is served: Stop, Kill, Start.
type PostgreSQL struct {
	*Broker
	Password string // of the user waybill, who may do everything
}

// nobody runs the server where the tests run as root, which PostgreSQL refuses to: Debian's user and group of that name.
const nobody = 65534

// capDacOverride lets a process of nobody's reach its folder below a temporary one that is root's alone.
const capDacOverride = 1

// Postgres starts Debian's PostgreSQL with a database of its own in a temporary folder, and returns when it answers.
// settings are lines of postgresql.conf; "fsync = off" suits whoever does not kill it.
func Postgres(t testing.TB, settings ...string) *PostgreSQL {
	t.Helper()
	folder := Folder(t, "postgresql")
	bin, _ := filepath.Glob(filepath.Join(folder, "usr/lib/postgresql/*/bin"))
	if len(bin) != 1 {
		t.Fatalf("%s: want one PostgreSQL there, found %v", folder, bin)
	}
	dir, password := t.TempDir(), "not a secret"
	data := filepath.Join(dir, "data")
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin[0], name), args...)
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries(folder), "LC_ALL=C.UTF-8", "TZ=UTC", "PGPASSWORD="+password)
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: []uintptr{capDacOverride}}
		}
		return cmd
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command("initdb", "-D", data, "-U", "waybill", "-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	port := freePort(t)
	conf := fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = ''\njit = off\nshared_buffers = 128MB\n", port)
	for _, line := range settings {
		conf += line + "\n"
	}
	if err := os.WriteFile(filepath.Join(data, "postgresql.auto.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &PostgreSQL{Password: password, Broker: &Broker{
		Addr: fmt.Sprintf("127.0.0.1:%d", port), Dir: dir, name: "postgresql", log: "postgresql.out", within: time.Minute,
		command: func() *exec.Cmd { return command("postgres", "-D", data) },
		ready: func() error {
			return command("pg_isready", "-q", "-U", "waybill", "-d", "postgres", "-h", "127.0.0.1", "-p", strconv.Itoa(port)).Run()
		},
		others: children,
		stop:   syscall.SIGINT, // fast: does not wait for its clients to go
	}}
	p.run(t)
	return p
}

// URL names a database of the server, with user and password; "postgres" is there from the start.
func (p *PostgreSQL) URL(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.UserPassword("waybill", p.Password), Host: p.Addr, Path: "/" + database}).String()
}

// Client is psql, pg_dump and the like, to be run on the server's databases.
func (p *PostgreSQL) Client(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	folder := Folder(t, "postgresql")
	path, _ := filepath.Glob(filepath.Join(folder, "usr/lib/postgresql/*/bin", name))
	if len(path) != 1 {
		t.Fatalf("%s: want one %s there, found %v", folder, name, path)
	}
	cmd := exec.Command(path[0], args...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries(folder))
	return cmd
}

// Database makes an empty database and gives its URL.
func (p *PostgreSQL) Database(t testing.TB, name string) string {
	t.Helper()
	if out, err := p.Client(t, "psql", "-X", "-q", "-d", p.URL("postgres"), "-c", `CREATE DATABASE "`+name+`"`).CombinedOutput(); err != nil {
		t.Fatalf("database %s: %v\n%s", name, err, out)
	}
	return p.URL(name)
}

// Copy dumps a database and loads it into another, empty one.
func (p *PostgreSQL) Copy(t testing.TB, from, to string) {
	t.Helper()
	dump := filepath.Join(t.TempDir(), "dump.sql")
	if out, err := p.Client(t, "pg_dump", "-d", from, "-f", dump).CombinedOutput(); err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, out)
	}
	if out, err := p.Client(t, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", to, "-f", dump).CombinedOutput(); err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
}

// children lists the processes that a process has started and that live. PostgreSQL's have sessions of their own, so that
// no signal to a group reaches them.
func children(pid int) (list []int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if text == nil { // a kernel without CONFIG_PROC_CHILDREN
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, file := range stats {
			line, _ := os.ReadFile(file)
			if end := bytes.LastIndexByte(line, ')'); end > 0 {
				if words := strings.Fields(string(line[end+1:])); len(words) > 1 && words[1] == strconv.Itoa(pid) {
					text = append(append(text, filepath.Base(filepath.Dir(file))...), ' ')
				}
			}
		}
	}
	for _, word := range strings.Fields(string(text)) {
		if n, err := strconv.Atoi(word); err == nil {
			list = append(list, n)
		}
	}
	return list
}
