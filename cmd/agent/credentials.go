package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/credential"
)

const (
	// credentialsEvery is how often files of credentials are looked at by stat(2), and the clock for whether it was set.
	credentialsEvery = 2 * time.Second
	// tokenEvery is how often a token that is due is asked for.
	tokenEvery = time.Minute
	// clockJump is how far the known time may move on its own before a try to connect is worth it.
	clockJump = time.Minute
)

// tpmConfig names a key in a TPM 2.0.
type tpmConfig struct {
	Device string `yaml:"device"`
	Handle uint32 `yaml:"handle"`
}

// The persistent handles of a TPM 2.0 (TPM 2.0 Library, part 2, §7.5.2).
const (
	tpmFirst uint32 = 0x81000000
	tpmLast  uint32 = 0x81FFFFFF
)

// credentials checks the keys that say who the vehicle is and whom it trusts.
func (c *checker) credentials(u *uplinkSettings) {
	raw := &c.d.config.Uplink
	at := func(key string) []any { return []any{"uplink", key} }
	o := &u.Credentials
	*o = credential.Options{
		CA: c.path(raw.CA), ServerName: raw.ServerName, MinVersion: tls.VersionTLS12,
		Cert: c.path(raw.Cert), Key: c.path(raw.Key), PKCS12: c.path(raw.PKCS12), PKCS12Password: c.path(raw.PKCS12PasswordFile),
		PKCS12PasswordEnv: c.variable(raw.PKCS12PasswordEnv, at("pkcs12_password_env")...),
		User:              c.path(raw.UserFile), Password: c.path(raw.PasswordFile),
		PasswordEnv: c.variable(raw.PasswordEnv, at("password_env")...),
		Token: credential.Token{File: c.path(raw.TokenFile), Command: raw.TokenCommand,
			Timeout: c.duration(raw.TokenTimeout, 10*time.Second, time.Second, time.Minute, at("token_timeout")...)},
	}
	u.RefusedRetry = c.duration(raw.RefusedRetry, 15*time.Minute, 10*time.Second, 24*time.Hour, at("refused_retry")...)
	if c.oneOf(raw.TLSMin, []string{"1.2", "1.3"}, at("tls_min")...) == "1.3" {
		o.MinVersion = tls.VersionTLS13
	}
	for i, text := range raw.CAPins {
		pin, err := credential.ParsePin(text)
		if err != nil {
			c.fail(err.Error()+"; docs/UPLINK.md says how to make one", "uplink", "ca_pins", i)
		}
		o.Pins = append(o.Pins, pin)
	}
	if (raw.Cert == "") != (raw.Key == "" && raw.TPM == nil) {
		c.fail("cert: goes together with key:, or with tpm:", at("cert")...)
	}
	if raw.TPM != nil {
		if raw.Key != "" {
			c.fail("want either key: or tpm:", at("tpm")...)
		}
		if raw.TPM.Handle < tpmFirst || raw.TPM.Handle > tpmLast {
			c.fail(fmt.Sprintf("want the persistent handle of the key, %#x to %#x, got %#x; tpm2_evictcontrol makes one", tpmFirst, tpmLast, raw.TPM.Handle), "uplink", "tpm", "handle")
		}
		device := c.path(orDefault(raw.TPM.Device, "/dev/tpmrm0"))
		o.Signer = credential.TPM{Handle: raw.TPM.Handle, Open: func() (transport.TPMCloser, error) { return linuxtpm.Open(device) }}.Signer
	}
	if raw.PKCS12 != "" && raw.Cert != "" {
		c.fail("want either cert: and key:, or pkcs12:", at("pkcs12")...)
	}
	if raw.PKCS12PasswordFile != "" && raw.PKCS12 == "" {
		c.fail("is for pkcs12: only", at("pkcs12_password_file")...)
	}
	if raw.PKCS12PasswordEnv != "" && (raw.PKCS12 == "" || raw.PKCS12PasswordFile != "") {
		c.fail("is for pkcs12:, in place of pkcs12_password_file:", at("pkcs12_password_env")...)
	}
	if raw.User != "" && raw.UserFile != "" {
		c.fail("want either user: or user_file:", at("user_file")...)
	}
	passwords := 0
	for _, given := range []bool{raw.PasswordFile != "", raw.PasswordEnv != "", raw.TokenFile != "", len(raw.TokenCommand) > 0} {
		if given {
			passwords++
		}
	}
	if passwords > 1 {
		c.fail("want one of password_file:, password_env:, token_file: and token_command:; each is the password of MQTT", at("password_file")...)
	}
	if len(raw.TokenCommand) == 0 && raw.TokenTimeout != "" {
		c.fail("is for token_command: only", at("token_timeout")...)
	}
	if passwords > 0 && raw.User == "" && raw.UserFile == "" {
		c.fail("a password needs user: or user_file: (MQTT 3.1.1 §3.1.2.9)", at("user")...)
	}
	// Tokens and users may be written by another service after our start; the alarm says so then.
	for key, file := range map[string]string{"ca": o.CA, "cert": o.Cert, "key": o.Key, "pkcs12": o.PKCS12,
		"pkcs12_password_file": o.PKCS12Password, "password_file": o.Password} {
		if file != "" {
			if _, err := os.Stat(file); err != nil {
				c.fail(err.Error(), at(key)...)
			}
		}
	}
}

// variable checks the name of an environment variable that holds a secret.
func (c *checker) variable(name string, path ...any) string {
	if name != "" && os.Getenv(name) == "" {
		c.fail(fmt.Sprintf("the environment has no %s; under systemd EnvironmentFile= brings it in", name), path...)
	}
	return name
}

// secure says whether a broker's URL means TLS.
func secure(broker *url.URL) bool {
	switch broker.Scheme {
	case "mqtts", "ssl", "tls", "wss":
		return true
	}
	return false
}

// useCredentials gives the uplink what to show and what to demand.
func (a *agent) useCredentials(o *uplink.Options) {
	s := &a.settings.Uplink
	options := s.Credentials
	options.Now = a.vouchedTime
	a.creds = credential.New(options)
	o.TLS, o.Explain = s.offering(a.creds.TLS), a.creds.Explain
	switch {
	case options.User != "":
		o.User = a.creds.UserName
	case s.User != "":
		o.User = func() (string, error) { return s.User, nil }
	}
	if options.Password != "" || options.PasswordEnv != "" || options.Token.File != "" || len(options.Token.Command) > 0 {
		o.Password = a.creds.PasswordOrToken
	}
}

// vouchedTime is the time for checking certificates and tokens, and whether somebody vouches for it.
func (a *agent) vouchedTime() (now time.Time, vouched bool) {
	_, doubt, _ := a.times.Now(a.clock.Boot())
	return a.now(), doubt < clock.Unbounded && a.logClock == nil
}

// watchCredentials makes a refused vehicle try again at once when a file or the clock has changed, replaces a token
// before it expires, and says what expires soon.
func (a *agent) watchCredentials() func(context.Context) error {
	now, vouched := a.vouchedTime()
	offset := now.UnixNano() - a.clock.Boot()
	var asked time.Time
	return a.often(credentialsEvery, func() {
		if a.creds.Changed() {
			a.uplink.Retry(uplink.CauseCredentials, "a file of credentials has changed")
		}
		now, known := a.vouchedTime()
		moved := now.UnixNano() - a.clock.Boot()
		if known != vouched || max(moved-offset, offset-moved) > int64(clockJump) {
			vouched, offset = known, moved
			a.uplink.Retry(uplink.CauseCredentials, "the clock was set")
		}
		if due := a.creds.Renewal(); !due.IsZero() && known && !now.Before(due) && time.Since(asked) >= tokenEvery {
			asked = time.Now()
			switch newer, err := a.creds.Refresh(); {
			case err != nil:
				a.log.Warn("the token could not be renewed", "error", err)
			case newer:
				asked = time.Time{}
				a.uplink.Reconnect("the token expires soon, and there is a new one")
			}
		}
		if text := a.creds.Expiring(); text != "" && known {
			a.alarms.Raise("uplink.expiry", fmt.Sprintf("%s; after that the broker will refuse this vehicle, and everything waits on disk", text))
		} else {
			a.alarms.Clear("uplink.expiry")
		}
	})
}
