package decoded

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
)

//go:embed schema/sample.json
var sampleSchema string

//go:embed schema/position.json
var positionSchema string

//go:embed schema/loss.json
var lossSchema string

//go:embed decodedpb/decoded.proto
var protoSchema string

// Schema is how a registry is told of the rows of a kind.
func (f Format) Schema(kind string) (text string, messageIndex []int) {
	place := map[string]int{Samples: 0, Events: 0, Positions: 1, Losses: 2}[kind]
	if f == Proto {
		return protoSchema, []int{place} // the message's place in the file
	}
	return [...]string{sampleSchema, positionSchema, lossSchema}[place], nil
}

// Registry is a schema registry with Confluent's interface. It is safe for use from several goroutines.
type Registry struct {
	URL string // http://HOST:PORT/… or https://…, without a user
	// TLS is asked at each call; nil: the system's authorities.
	TLS func() (*tls.Config, error)
	// Credentials is asked at each call; nil: none.
	Credentials func() (user, password string, err error)
	Insecure    bool // allow http beyond loopback
}

const registryTimeout = 15 * time.Second

func (r *Registry) check() error {
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("schema registry: want a URL such as https://registry.example:8081") // what url says may hold a password
	}
	if u.User != nil {
		return errors.New("schema registry: no user in the URL, others can read a command line; give user and password file of their own")
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); u.Scheme == "http" && !r.Insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("schema registry %s: without TLS only on this machine; give an https URL, or allow it on a network that you trust", r.URL)
	}
	return nil
}

// Head registers the schema of a topic's values and gives what stands ahead of each: a zero byte, the schema's id (4 bytes), and for
// protobuf which message of the schema it is. A schema that is registered keeps its id.
func (r *Registry) Head(ctx context.Context, topic, kind string, f Format) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if r.TLS != nil {
		c, err := r.TLS()
		if err != nil {
			return nil, fmt.Errorf("schema registry: TLS: %w", err)
		}
		transport.TLSClientConfig = c
	}
	o := []sr.ClientOpt{sr.URLs(strings.TrimRight(r.URL, "/")), sr.UserAgent("waybill-fleet"), sr.HTTPClient(&http.Client{Transport: transport, Timeout: registryTimeout})}
	if r.Credentials != nil {
		user, password, err := r.Credentials()
		if err != nil {
			return nil, fmt.Errorf("schema registry: %w", err)
		}
		o = append(o, sr.BasicAuth(user, password))
	}
	client, err := sr.NewClient(o...)
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	text, message := f.Schema(kind)
	schema := sr.Schema{Schema: text, Type: sr.TypeJSON}
	if f == Proto {
		schema.Type = sr.TypeProtobuf
	}
	id, err := client.RegisterSchema(ctx, topic+"-value", schema, -1, -1)
	if err != nil {
		return nil, fmt.Errorf("schema registry %s: register %s-value: %w; an incompatible schema under that name has to be deleted there, or another --kafka-topic-prefix given",
			r.URL, topic, err)
	}
	head, err := new(sr.ConfluentHeader).AppendEncode(nil, id, message)
	if err != nil {
		return nil, fmt.Errorf("schema registry: id %d: %w", id, err)
	}
	return head, nil
}
