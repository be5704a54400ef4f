package deps

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Mongo starts mongo-java-server, which speaks MongoDB's protocol, and returns when it accepts connections. It keeps its
// data over Stop and Start. Kill loses what was written in the last second or so, and may lose a document and keep a position
// that was written after it: it stores one collection after another. A MongoDB that acknowledges what is in its journal loses
// nothing. It has no users, replica sets or transactions.
func Mongo(t testing.TB) *Broker {
	t.Helper()
	jars, java := filepath.Join(Folder(t, "mongo"), "jars", "*"), filepath.Join(Folder(t, "java"), "java")
	source, dir, port := filepath.Join(Root(t), "test", "deps", "Mongo.java"), t.TempDir(), freePort(t)
	b := &Broker{
		Addr: fmt.Sprintf("127.0.0.1:%d", port), Dir: dir, name: "mongo", log: "mongo.out", within: time.Minute, stdin: true,
		command: func() *exec.Cmd {
			return exec.Command(java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
				"-cp", jars, source, fmt.Sprint(port), filepath.Join(dir, "data.mv"))
		},
	}
	return b.run(t)
}
