package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// config is the file as it is written: text and numbers, not yet believed. settings.go turns it into types.
// examples/agent.yaml shows every key with its unit and default; a test keeps the two together.
type config struct {
	Device  deviceConfig  `yaml:"device"`
	DataDir string        `yaml:"data_dir"`
	Log     logConfig     `yaml:"log"`
	CAN     []canConfig   `yaml:"can"`
	GPS     []gpsConfig   `yaml:"gps"`
	IMU     []imuConfig   `yaml:"imu"`
	Collect collectConfig `yaml:"collect"`
	Queue   queueConfig   `yaml:"queue"`
	Uplink  uplinkConfig  `yaml:"uplink"`

	Commands commandsConfig `yaml:"commands"`
	Power    *powerConfig   `yaml:"power"`
	Update   *updateConfig  `yaml:"update"`

	Metrics metricsConfig `yaml:"metrics"`
	Profile string        `yaml:"profile"`
}

type deviceConfig struct {
	ID     string `yaml:"id"`
	Tenant string `yaml:"tenant"`
}

type logConfig struct {
	Level  string `yaml:"level" enum:"debug info warn error"`
	Format string `yaml:"format" enum:"text json"`
}

type canConfig struct {
	Bus        string   `yaml:"bus"`
	Interface  string   `yaml:"interface"`
	Bitrate    uint32   `yaml:"bitrate"`
	ListenOnly *bool    `yaml:"listen_only"`
	Replay     string   `yaml:"replay"`
	LogBus     string   `yaml:"log_bus"`
	Speed      *float64 `yaml:"speed"`
	Time       string   `yaml:"time" enum:"log receipt"`
	DBC        []string `yaml:"dbc"`
	J1939      bool     `yaml:"j1939"`

	Record   recordConfig    `yaml:"record"`
	Diagnose *diagnoseConfig `yaml:"diagnose"`
}

type collectConfig struct {
	Signals []signalConfig `yaml:"signals"`
	Rules   []ruleConfig   `yaml:"rules"`
}

type signalConfig struct {
	Match       string  `yaml:"match"`
	Lane        string  `yaml:"lane" enum:"telemetry event"`
	Sample      string  `yaml:"sample" enum:"on_change every"`
	DeadBand    float64 `yaml:"dead_band"`
	MinInterval string  `yaml:"min_interval"`
	MaxInterval string  `yaml:"max_interval"`
}

type ruleConfig struct {
	Name       string   `yaml:"name"`
	Signal     string   `yaml:"signal"`
	Above      *float64 `yaml:"above"`
	Below      *float64 `yaml:"below"`
	Hysteresis float64  `yaml:"hysteresis"`
}

type uplinkConfig struct {
	Broker       string `yaml:"broker"`
	Profile      string `yaml:"broker_profile" enum:"none aws emqx hivemq mosquitto rabbitmq"`
	ClientID     string `yaml:"client_id"`
	Insecure     bool   `yaml:"insecure"`
	CA           string `yaml:"ca"`
	Cert         string `yaml:"cert"`
	Key          string `yaml:"key"`
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
	PasswordEnv  string `yaml:"password_env"`

	TLSMin             string       `yaml:"tls_min" enum:"1.2 1.3"`
	ServerName         string       `yaml:"server_name"`
	CAPins             []string     `yaml:"ca_pins"`
	PKCS12             string       `yaml:"pkcs12"`
	PKCS12PasswordFile string       `yaml:"pkcs12_password_file"`
	PKCS12PasswordEnv  string       `yaml:"pkcs12_password_env"`
	TPM                *tpmConfig   `yaml:"tpm"`
	UserFile           string       `yaml:"user_file"`
	TokenFile          string       `yaml:"token_file"`
	TokenCommand       []string     `yaml:"token_command"`
	TokenTimeout       string       `yaml:"token_timeout"`
	RefusedRetry       string       `yaml:"refused_retry"`
	Proxy              string       `yaml:"proxy"`
	ProxyUser          string       `yaml:"proxy_user"`
	ProxyPasswordFile  string       `yaml:"proxy_password_file"`
	ProxyPasswordEnv   string       `yaml:"proxy_password_env"`
	Links              []linkConfig `yaml:"links"`
	BudgetDay          string       `yaml:"budget_day" enum:"utc local"`

	Ack            string            `yaml:"ack" enum:"receipt puback"`
	Format         map[string]string `yaml:"format" keys:"control event telemetry raw" enum:"columns plain json"`
	KeepAlive      string            `yaml:"keep_alive"`
	ReceiptTimeout string            `yaml:"receipt_timeout"`
	RetryBase      string            `yaml:"retry_base"`
	RetryCap       string            `yaml:"retry_cap"`
	PayloadBytes   string            `yaml:"payload_bytes"`
	Drain          string            `yaml:"drain"`
}

// problem is one thing wrong with a configuration file.
type problem struct {
	File string // empty: that of problems
	Line int
	Text string // "key: what is wrong; what to do"
}

// problems is everything wrong with a configuration file, in the order of its lines.
type problems struct {
	File string
	List []problem
}

func (p *problems) Error() string {
	lines := make([]string, len(p.List))
	for i, one := range p.List {
		lines[i] = fmt.Sprintf("%s:%d: %s", orDefault(one.File, p.File), one.Line, one.Text)
	}
	return strings.Join(lines, "\n")
}

// document is a decoded file with its fragments, and where its keys stand.
type document struct {
	config config
	file   string
	root   *yaml.Node
	origin map[*yaml.Node]string // the fragment of a node; not there: file
}

// maxConfig bounds a configuration file, bytes.
const maxConfig = 1 << 20

// readConfig reads a configuration and its fragments.
func readConfig(file string) (*document, error) {
	d, err := readFile(file)
	if err != nil {
		return nil, err
	}
	if d.root.Kind == 0 {
		return nil, &problems{file, []problem{{Line: 1, Text: "the file is empty; `waybill-agent config example` is a start"}}}
	}
	if err := d.addFragments(); err != nil {
		return nil, err
	}
	return d, nil
}

func readFile(file string) (*document, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w; name one with -c, `waybill-agent config example` is a start", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(text) > maxConfig {
		return nil, &problems{file, []problem{{Line: 1, Text: "the file is larger than 1 MiB; it is not a configuration"}}}
	}
	return parseConfig(file, text)
}

// parseConfig decodes a file strictly: unknown keys and wrong types are problems with their lines.
func parseConfig(file string, text []byte) (*document, error) {
	d := &document{file: file, root: &yaml.Node{}}
	if err := yaml.Unmarshal(text, d.root); err != nil {
		return nil, &problems{file, []problem{yamlProblem(err.Error())}}
	}
	if d.root.Kind == 0 { // nothing but comments
		return d, nil
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&d.config); err != nil {
		list := &problems{File: file}
		var typed *yaml.TypeError
		if errors.As(err, &typed) {
			for _, e := range typed.Errors {
				list.List = append(list.List, yamlProblem(e))
			}
		} else {
			list.List = append(list.List, yamlProblem(err.Error()))
		}
		return nil, list
	}
	return d, nil
}

var (
	yamlLine    = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?line (\d+): (.*)$`)
	yamlUnknown = regexp.MustCompile(`^field (\S+) not found in type (\S+)$`)
	yamlType    = regexp.MustCompile("^cannot unmarshal (!!\\w+)(?: `(.*)`)? into (\\S+)$")
)

// yamlProblem puts the library's words into the user's.
func yamlProblem(text string) problem {
	p := problem{Line: 1, Text: strings.TrimPrefix(text, "yaml: ")}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		p.Text = m[2]
	}
	if m := yamlUnknown.FindStringSubmatch(p.Text); m != nil {
		p.Text = fmt.Sprintf("unknown key %q", m[1])
		if near := nearest(m[1], knownKeys(m[2])); near != "" {
			p.Text += fmt.Sprintf("; did you mean %q?", near)
		}
	} else if m := yamlType.FindStringSubmatch(p.Text); m != nil {
		what := map[string]string{"!!str": "text", "!!int": "a whole number", "!!float": "a number", "!!bool": "true or false",
			"!!seq": "a list", "!!map": "a group of keys", "!!null": "nothing"}
		want := m[3]
		switch {
		case strings.HasPrefix(want, "[]"):
			want = "a list"
		case strings.HasPrefix(want, "main.") || strings.HasPrefix(want, "map"):
			want = "a group of keys"
		case strings.HasPrefix(want, "uint"):
			want = "a whole number, 0 or more"
		case strings.HasPrefix(want, "int"):
			want = "a whole number"
		case strings.HasPrefix(want, "float"):
			want = "a number"
		case want == "bool":
			want = "true or false"
		case want == "string":
			want = "text"
		}
		got := what[m[1]]
		if got == "" {
			got = m[1]
		}
		if m[2] != "" {
			got += fmt.Sprintf(" (%s)", m[2])
		}
		p.Text = fmt.Sprintf("want %s, got %s", want, got)
	}
	return p
}

// knownKeys lists the keys of a configuration type by its Go name.
func knownKeys(goType string) []string {
	var find func(t reflect.Type) []string
	find = func(t reflect.Type) []string {
		for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return nil
		}
		var keys []string
		for i := range t.NumField() {
			keys = append(keys, t.Field(i).Tag.Get("yaml"))
		}
		if t.String() == goType {
			return keys
		}
		for i := range t.NumField() {
			if found := find(t.Field(i).Type); found != nil {
				return found
			}
		}
		return nil
	}
	return find(reflect.TypeOf(config{}))
}

// nearest is the candidate closest to a word, or nothing when none is close.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/2+1
	for _, c := range candidates {
		if d := editDistance(word, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// place finds where a key stands: keys and list indices from the top, as far as they exist.
func (d *document) place(path ...any) (file string, line int) {
	node := d.root
	if node.Kind == yaml.DocumentNode && len(node.Content) > 0 {
		node = node.Content[0]
	}
	file, line = d.file, max(node.Line, 1)
	at := func(n *yaml.Node) {
		file, line = orDefault(d.origin[n], d.file), n.Line
	}
	for _, step := range path {
		var next *yaml.Node
		switch s := step.(type) {
		case string:
			for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 { // keys, not values
				if node.Content[i].Value == s {
					at(node.Content[i])
					next = node.Content[i+1]
					break
				}
			}
		case int:
			if node.Kind == yaml.SequenceNode && s < len(node.Content) {
				next = node.Content[s]
				at(next)
			}
		}
		if next == nil {
			return file, line
		}
		node = next
	}
	return file, line
}
