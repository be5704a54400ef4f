// Command bench-pipeline is a generic stream processor with the parts that a pipeline from MQTT through Kafka into PostgreSQL
// takes: what test/cloudbench measures the fleet beside. It is a module of its own so that the comparison is no dependency
// of what we build.
package main

import (
	"context"

	_ "github.com/benthosdev/benthos/v4/public/components/io"
	_ "github.com/benthosdev/benthos/v4/public/components/kafka"
	_ "github.com/benthosdev/benthos/v4/public/components/mqtt"
	_ "github.com/benthosdev/benthos/v4/public/components/pure"
	_ "github.com/benthosdev/benthos/v4/public/components/sql/base"
	"github.com/benthosdev/benthos/v4/public/service"
	_ "github.com/lib/pq"
)

func main() { service.RunCLI(context.Background()) }
