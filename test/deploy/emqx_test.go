//go:build system

package deploy

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// TestEMQX reads what is given for EMQX with HOCON's reference implementation, and sees that no door is open to
// somebody without a certificate, and that nothing is denied in silence. EMQX itself is not here.
func TestEMQX(t *testing.T) {
	folder := filepath.Join(deps.Root(t), "deploy", "emqx")
	java, jars := filepath.Join(deps.Folder(t, "java"), "java"), filepath.Join(deps.Folder(t, "hocon"), "jars", "*")
	text, err := exec.Command(java, "-XX:TieredStopAtLevel=1", "-cp", jars, "Hocon.java",
		filepath.Join(folder, "emqx.conf"), filepath.Join(folder, "emqx-kafka.conf")).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	at := func(path string) any {
		var v any = all
		for key := range strings.SplitSeq(path, ".") {
			m, _ := v.(map[string]any)
			v = m[key]
		}
		return v
	}
	for path, want := range map[string]any{
		"authorization.no_match":                                           "deny",
		"authorization.deny_action":                                        "disconnect",
		"zones.vehicles.mqtt.peer_cert_as_clientid":                        "cn",
		"mqtt.peer_cert_as_username":                                       "cn",
		"listeners.ssl.vehicles.zone":                                      "vehicles",
		"actions.kafka_producer.waybill_raw.parameters.partition_strategy": "key_dispatch",
		"actions.kafka_producer.waybill_raw.parameters.required_acks":      "all_isr",
		"actions.kafka_producer.waybill_raw.connector":                     "waybill",
	} {
		if got := at(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	for _, kind := range []string{"tcp", "ws", "wss", "ssl"} {
		doors, _ := at("listeners." + kind).(map[string]any)
		if _, named := doors["default"]; !named {
			t.Errorf("listeners.%s.default is not named, and EMQX opens it by itself", kind)
		}
		for name, door := range doors {
			d, _ := door.(map[string]any)
			if d["enable"] == false {
				continue
			}
			o, _ := d["ssl_options"].(map[string]any)
			if kind != "ssl" || o["verify"] != "verify_peer" || o["fail_if_no_peer_cert"] != true {
				t.Errorf("listeners.%s.%s lets in who shows no certificate", kind, name)
			}
		}
	}
	rules, err := os.ReadFile(filepath.Join(folder, "acl.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(string(rules)), "\n"); lines[len(lines)-1] != "{deny, all}." {
		t.Errorf("the last rule is %q", lines[len(lines)-1])
	}
}
