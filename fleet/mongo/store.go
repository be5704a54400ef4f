// Package mongo keeps decoded rows as documents of MongoDB: events, and what else of the decoded topics is asked for. Its
// Store is a stream.Sink: it takes a decoded topic with its position, and needs no transaction for it. A row's document
// has the row's identity as its _id, so that writing it again changes nothing; the position moves after the documents are
// written, by compare-and-set. What ends in between is written once more.
//
// It reads the decoded topics rather than the raw one: duplicates, catalogues and dating are behind them already, and a
// row that is dated anew comes again under the same identity. It sends no receipts, which are the primary store's.
package mongo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
)

// Names of ours among the collections and fields.
const (
	positionsCollection = "waybill_offsets"
	fieldKafka          = "kafka"   // {partition, generation, to} of the write that made the document
	fieldMicros         = "time_us" // time once more, to the microsecond: Unix time
)

const (
	defaultDatabase = "waybill"
	operationLimit  = time.Minute // of one operation, tries and the choice of a server included
	selectionLimit  = 10 * time.Second
)

// Options of a Store.
type Options struct {
	// URI is mongodb://[USER@]HOST:PORT[,…]/[DATABASE][?…] or mongodb+srv://…, without a password. Beyond loopback TLS is on
	// unless the URI says something of tls. The database, "waybill" where none is named, is where the collections are.
	URI string
	// Password is asked when the Store is opened; nil where there is no user.
	Password func() (string, error)
	Log      *slog.Logger // nil: nothing is logged
}

// Store keeps rows. It may be used from several goroutines, and by several processes at once.
type Store struct {
	client *driver.Client
	db     *driver.Database
	log    *slog.Logger
}

// Open makes a Store. It connects when it is first used: what is wrong with the server shows then.
func Open(o Options) (*Store, error) {
	a, err := parseAddress(o.URI)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	durable := writeconcern.Majority()
	durable.Journal = new(true)
	c := options.Client().ApplyURI(o.URI).SetAppName("waybill-fleet").SetTimeout(operationLimit).SetServerSelectionTimeout(selectionLimit).
		SetWriteConcern(durable).SetReadConcern(readconcern.Majority()).SetReadPreference(readpref.Primary())
	if a.tls {
		c.SetTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	if c.Auth != nil && o.Password != nil {
		credential := *c.Auth
		if credential.Password, err = o.Password(); err != nil {
			return nil, err
		}
		credential.PasswordSet = true
		c.SetAuth(credential)
	}
	client, err := driver.Connect(c)
	if err != nil {
		return nil, fmt.Errorf("MongoDB: %w", err)
	}
	return &Store{client: client, db: client.Database(a.database), log: o.Log}, nil
}

// Close ends the connections.
func (s *Store) Close(ctx context.Context) error {
	if err := s.client.Disconnect(ctx); err != nil {
		return fmt.Errorf("MongoDB: %w", err)
	}
	return nil
}

// Prepare makes the indexes by which a collection is asked: of a vehicle's time, and of a name's. They may be there.
func (s *Store) Prepare(ctx context.Context, collection string) error {
	models := []driver.IndexModel{{Keys: bson.D{{Key: "tenant", Value: 1}, {Key: "device", Value: 1}, {Key: "time", Value: 1}}}}
	if collection == "events" || collection == "samples" {
		models = append(models, driver.IndexModel{Keys: bson.D{{Key: "tenant", Value: 1}, {Key: "name", Value: 1}, {Key: "time", Value: 1}}})
	}
	if _, err := s.db.Collection(collection).Indexes().CreateMany(ctx, models); err != nil {
		return fmt.Errorf("MongoDB: indexes of %s: %w", collection, err)
	}
	return nil
}

// Check says what is wrong with an address.
func Check(uri string) error {
	_, err := parseAddress(uri)
	return err
}

// address is what of an address the driver does not tell.
type address struct {
	database string
	tls      bool // to be turned on
}

// errAddress does not repeat the address, which may hold a password.
var errAddress = errors.New("want mongodb://[USER@]HOST:PORT/[DATABASE] or mongodb+srv://[USER@]HOST/[DATABASE]")

func parseAddress(uri string) (a address, err error) {
	scheme, rest, found := strings.Cut(uri, "://")
	if !found || scheme != "mongodb" && scheme != "mongodb+srv" {
		return a, errAddress
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, path, _ := strings.Cut(rest, "/")
	user, after, hasUser := strings.Cut(hosts, "@")
	if hasUser {
		hosts = after
	}
	q, err := url.ParseQuery(query)
	if err != nil || hosts == "" || strings.Contains(hosts, "@") {
		return a, errAddress
	}
	if hasUser && strings.Contains(user, ":") {
		return a, errors.New("no password in the address, others can read a command line: it belongs into a file")
	}
	if a.database, err = url.PathUnescape(path); err != nil || strings.ContainsAny(a.database, "/\\. \"$\x00") {
		return a, errAddress
	}
	if a.database == "" {
		a.database = defaultDatabase
	}
	said := false
	for name := range q {
		said = said || strings.HasPrefix(strings.ToLower(name), "tls") || strings.EqualFold(name, "ssl")
	}
	for host := range strings.SplitSeq(hosts, ",") {
		a.tls = a.tls || !said && scheme == "mongodb" && !isLoopback(host)
	}
	return a, nil
}

func isLoopback(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
