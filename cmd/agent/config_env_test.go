package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/uplink/credential"
)

func TestSecretsOfTheEnvironment(t *testing.T) {
	const broker = "device: {id: car-1}\ncan: [{bus: can0, replay: a.log, dbc: [a.dbc]}]\ncollect: {signals: [{match: '*'}]}\n" +
		"uplink:\n  broker: mqtts://b\n  user: u\n  password_env: WAYBILL_TEST_PASSWORD\n" +
		"  proxy: http://p:1\n  proxy_user: q\n  proxy_password_env: WAYBILL_TEST_PROXY\n"
	t.Setenv("WAYBILL_TEST_PROXY", "wachtwoord")
	_, _, _, err := loadText(t, broker)
	if err == nil || !strings.Contains(err.Error(), "agent.yaml:7: uplink.password_env: the environment has no WAYBILL_TEST_PASSWORD") {
		t.Fatalf("without it: %v", err)
	}
	t.Setenv("WAYBILL_TEST_PASSWORD", "geheim")
	_, s, _, err := loadText(t, broker)
	if err != nil {
		t.Fatal(err)
	}
	if password, err := credential.New(s.Uplink.Credentials).PasswordOrToken(); err != nil || password != "geheim" {
		t.Errorf("the broker is shown %q, %v", password, err)
	}
	proxy, err := s.Uplink.Proxy.of("b:8883")
	if err != nil {
		t.Fatal(err)
	}
	if want := url.UserPassword("q", "wachtwoord"); proxy.User.String() != want.String() {
		t.Errorf("the proxy is shown %v", proxy.User)
	}
	_, _, _, err = loadText(t, strings.Replace(broker, "  proxy: ", "  password_file: a.log\n  proxy: ", 1))
	if err == nil || !strings.Contains(err.Error(), "want one of password_file:") || strings.Contains(err.Error(), "geheim") {
		t.Errorf("two passwords: %v", err)
	}
}
