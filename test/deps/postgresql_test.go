//go:build system

package deps

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// What was committed is there after the server was stopped, and after it was killed; and a killed one leaves no process.
func TestPostgresKeepsWhatWasCommitted(t *testing.T) {
	p := Postgres(t)
	database := p.Database(t, "a b")
	ask := func(query string, into ...any) {
		t.Helper()
		c, err := pgx.Connect(context.Background(), database)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		if len(into) == 0 {
			_, err = c.Exec(context.Background(), query)
		} else {
			err = c.QueryRow(context.Background(), query).Scan(into...)
		}
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	ask("CREATE TABLE x (n int)")
	for want, end := range []func(){p.Stop, p.Kill, p.Restart} {
		ask("INSERT INTO x VALUES (1)")
		pid := p.cmd.Process.Pid
		left := children(pid)
		if len(left) == 0 {
			t.Error("a server of one process")
		}
		end()
		for _, pid := range left {
			if running(pid) {
				t.Errorf("process %d outlives the server", pid)
			}
		}
		p.Start()
		n := 0
		if ask("SELECT count(*) FROM x", &n); n != want+1 {
			t.Errorf("%d rows, want %d", n, want+1)
		}
	}
}
