# Waybill's tasks. `make help` lists them; docs/TESTING.md tells what the tests need and do.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MODULE  := github.com/waybill-telematics/waybill
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BUILT   ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
IDENTITY := -X $(MODULE)/firmware.version=$(VERSION) -X $(MODULE)/firmware.commit=$(COMMIT) -X $(MODULE)/firmware.built=$(BUILT)
# What ships to vehicles, and so has to work on their processors.
VEHICLE := $(addprefix ./,$(addsuffix /...,proto can gps pipeline buffer uplink firmware internal cmd/agent cmd/launcher))
# What has tests that need others' servers, a browser or a guest kernel: servers two packages at a time; then guests, which have
# one processor, beside what mostly waits.
SERVERS := ./fleet/postgres ./cmd/fleet ./fleet/decoded ./test/soak ./test/jobs ./fleet/ingest ./fleet/stream ./fleet/mongo ./test/sinks \
  ./test/cloud ./test/day ./test/tufclient ./firmware/install ./firmware/delivery ./fleet/ota ./test/ota
GUESTS  := ./test/browser ./test/vm
WAITERS := ./test/chaos ./test/crowd ./uplink/doctor ./test/deps ./test/deploy ./test/shares
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w $(IDENTITY)'
RACE    := CC="$$(.ci/cc)" CGO_ENABLED=1 go run ./test/gotest -again -race
LINTER  := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 2s
FUZZ_SHARE ?= 8
TORTURE_TIME ?= 10m
DEMO_SECONDS ?= 60
CLOUD_SECONDS ?= 0
.DEFAULT_GOAL := build
.PHONY: help assets build cross docs release check test test-arm test-system test-packages fuzz torture demo cloud bench lint proto clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

assets: ## fetch the page's parts that are others' work, at their pinned versions
	@go run ./fleet/page/fetch

build: ## build the four programs for this machine into bin/
	@go run ./fleet/page/fetch -try
	@for p in agent launcher fleet simulate; do $(GOBUILD) -o bin/waybill-$$p ./cmd/$$p; done

cross: ## build agent and launcher for the vehicles into dist/ and check that they are static and small
	@for a in arm arm64 amd64; do for p in agent launcher; do GOARCH=$$a GOARM=7 $(GOBUILD) -o dist/waybill-$$p-linux-$$a ./cmd/$$p; done; done
	@go run ./test/checkelf -max-mib 20 dist/waybill-agent-linux-*
	@go run ./test/checkelf -max-mib 4 dist/waybill-launcher-linux-*

docs: ## write the configuration's schema and reference from its keys
	go run ./cmd/agent config schema > docs/agent.schema.json.new && mv docs/agent.schema.json.new docs/agent.schema.json
	reference="$$(go run ./cmd/agent config reference; echo x)" && sed -i '/^<!-- made by make docs -->/q' docs/CONFIGURATION.md && \
	printf %s "$${reference%x}" >> docs/CONFIGURATION.md

release: ## Debian packages, archives, bill of materials, licences and checksums into dist/release/
	@go run ./fleet/page/fetch
	go run ./release -version '$(VERSION)' -commit '$(COMMIT)' -built '$(BUILT)' -out dist/release

check: ## gofmt and go vet, for this machine and for the vehicles
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); [ -z "$$unformatted" ] || { echo "gofmt would change: $$unformatted"; exit 1; }
	go vet ./...
	go vet -tags system ./test/... $(SERVERS) $(WAITERS) $(GUESTS)
	GOARCH=arm64 go vet $(VEHICLE)
	GOARCH=arm GOARM=7 go vet $(VEHICLE)

test: check ## all tests of this machine with the race detector, every eighth fuzz target for FUZZTIME, the vehicle's packages on armv7
	$(RACE) -skip '^TestVcan' -timeout 15m ./test/e2e ./buffer $$(go list ./... | grep -v '/test/\(vm\|sim\)$$') # the longest first
	$(RACE) -run '^Test(RandomWeeks|VirtualDay)$$' ./test/sim # what is long runs without the detector
	WAYBILL_WEEKS=1000 go run ./test/gotest ./test/sim
	ARCHES=arm .ci/test-arm $(VEHICLE)
	FUZZ_SHARE=$(FUZZ_SHARE) .ci/fuzz $(FUZZTIME)

test-arm: ## the vehicle's packages on armv7 and arm64 under user-mode emulation
	.ci/test-arm $(VEHICLE)

test-system: assets cross ## the agent on guest kernels with CAN, some of them on emulated hardware; others' brokers and databases; arm64
	go run ./test/gotest -again -tags system -p 2 -timeout 30m $(SERVERS)
	@# What is beside the guests tells at the end; arm64 takes the processor's time that all of them leave.
	@mkdir -p .cache/beside; \
	beside() { local name=$$1 code=0; shift; "$$@" >.cache/beside/$$name.log 2>&1 || code=$$?; echo $$code >.cache/beside/$$name.exit; }; \
	beside waiters go run ./test/gotest -again -tags system -p 1 -timeout 30m $(WAITERS) & \
	ARCHES=arm64 beside arm64 nice -n 19 .ci/test-arm $(VEHICLE) & \
	guests=0; go run ./test/gotest -again -tags system -p 1 -timeout 30m $(GUESTS) || guests=$$?; \
	wait; cd .cache/beside; cat waiters.log arm64.log; exit $$((guests + $$(cat waiters.exit) + $$(cat arm64.exit)))
	cd test/manifests && go test -count 1 ./...

test-packages: cross ## the packages in systems that debootstrap makes, and the service under systemd in a guest; needs root
	go run ./test/gotest -tags system -timeout 30m ./test/packages

fuzz: ## every fuzz target for a minute each
	.ci/fuzz 60s

torture: ## what takes hours: long fuzzing, every test many times over; goes on where it was, TORTURE_TIME=1m shortens
	TORTURE_TIME=$(TORTURE_TIME) .ci/torture

demo: ## a vehicle, a broker and a store on this machine, for DEMO_SECONDS
	@go run ./fleet/page/fetch -try
	DEMO_SECONDS=$(DEMO_SECONDS) go run ./test/demo

cloud: ## the real cloud side here: Mosquitto, Kafka, PostgreSQL, two fleets, vehicles; CLOUD_SECONDS, 0 is until Ctrl-C
	@go run ./fleet/page/fetch -try
	@CLOUD_SECONDS=$(CLOUD_SECONDS) go run ./test/cloud

bench: ## every benchmark, briefly, with allocations
	go test -run '^$$' -bench . -benchmem -benchtime 200ms -timeout 30m ./...
	go test -tags system -count 1 -run TestThroughput -v -timeout 20m ./test/cloudbench # builds test/bench-pipeline, where it can be downloaded
	@cd test/bench-nmea && export GOFLAGS=-mod=mod && if go mod download 2>/dev/null; then go test -count 1 -run TestRatio -v .; \
	else echo "go-nmea cannot be downloaded: no comparison with it"; fi

lint: check ## check, golangci-lint (built at its pinned version when first used) and shellcheck
	$(LINTER) run ./...
	"$$(test/deps/fetch.sh shellcheck)/usr/bin/shellcheck" test/deps/fetch.sh test/deps/emulated.sh deploy/compose/secrets.sh deploy/debian/{postinst,prerm,postrm,waybill-agent.sh} \
	  deploy/buildroot/package/waybill-agent/S80waybill .ci/*

proto: ## generate *.pb.go from the .proto files of proto and fleet/decoded
	cd tools && go run ./protogen ../proto $(notdir $(wildcard proto/*.proto))
	cd tools && go run ./protogen ../fleet/decoded/decodedpb decoded.proto

clean: ## remove what was built; .cache stays, delete it by hand
	rm -rf bin dist
