//go:build system

package deploy

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/test/deps"
)

// startHiveMQ starts HiveMQ with the configuration of deploy/hivemq.
func startHiveMQ(t *testing.T) *fleetBroker {
	const password = "of the stores"
	f, dir := newFleetBroker(t), t.TempDir()
	conf := filepath.Join(dir, "conf")
	write := func(name string, text []byte, err error) {
		t.Helper()
		if err == nil {
			err = os.MkdirAll(conf, 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(conf, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	broker := f.server.Leaf("broker")
	text, err := pkcs12.Modern.Encode(broker.Key, broker.Cert, []*x509.Certificate{f.server.Cert}, password)
	write("broker.p12", text, err)
	for name, a := range map[string]*certs.Authority{"vehicles-ca.p12": f.vehicles, "fleet-ca.p12": f.fleet} {
		text, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{a.Cert}, password)
		write(name, text, err)
	}
	given, err := os.ReadFile(filepath.Join(deps.Root(t), "deploy", "hivemq", "config.xml"))
	if err != nil {
		t.Fatal(err)
	}
	f.Broker = deps.HiveMQConfig(t, dir, 2, func(ports []int) string {
		f.ports = ports
		return adapt(t, string(given), map[string]string{
			"<port>8883</port>": fmt.Sprintf("<port>%d</port>", ports[0]),
			"<port>8884</port>": fmt.Sprintf("<port>%d</port>", ports[1]),
			"0.0.0.0":           "127.0.0.1",
			"/opt/hivemq/conf/": conf + "/",
		})
	}, "HIVEMQ_STORE_PASSWORD="+password)
	return f.ready()
}

func TestHiveMQ(t *testing.T) {
	f := startHiveMQ(t)
	f.doors()
	f.delivers()
}
