# Waybill's tasks. `make help` lists them; docs/TESTING.md tells what the tests need and do.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MODULE  := github.com/waybill-telematics/waybill
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BUILT   ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
IDENTITY := -X $(MODULE)/firmware.version=$(VERSION) -X $(MODULE)/firmware.commit=$(COMMIT) -X $(MODULE)/firmware.built=$(BUILT)
# What ships to vehicles, and so has to work on their processors.
VEHICLE := $(addprefix ./,$(addsuffix /...,proto can gps pipeline buffer uplink firmware internal cmd/agent))
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w $(IDENTITY)'
RACE    := CC="$$(.ci/cc)" CGO_ENABLED=1 go run ./test/gotest -race
LINTER  := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 2s
TORTURE_TIME ?= 10m
DEMO_SECONDS ?= 60
.DEFAULT_GOAL := build
.PHONY: help assets build cross check test test-arm test-system fuzz torture demo bench lint proto clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

assets: ## fetch the page's parts that are others' work, at their pinned versions
	@go run ./fleet/page/fetch

build: ## build the three programs for this machine into bin/
	@go run ./fleet/page/fetch -try
	@for p in agent fleet simulate; do $(GOBUILD) -o bin/waybill-$$p ./cmd/$$p; done

cross: ## build the agent for the vehicles into dist/ and check that it is static and small
	@for a in arm arm64 amd64; do GOARCH=$$a GOARM=7 $(GOBUILD) -o dist/waybill-agent-linux-$$a ./cmd/agent; done
	@go run ./test/checkelf -max-mib 20 dist/waybill-agent-linux-*

check: ## gofmt and go vet, for this machine and for the vehicles
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); [ -z "$$unformatted" ] || { echo "gofmt would change: $$unformatted"; exit 1; }
	go vet ./...
	go vet -tags system ./test/... ./uplink/doctor ./fleet/postgres ./fleet/ingest ./cmd/fleet ./fleet/stream
	GOARCH=arm64 go vet $(VEHICLE)
	GOARCH=arm GOARM=7 go vet $(VEHICLE)

test: check ## all tests of this machine with the race detector, fuzz targets for FUZZTIME each, the vehicle's packages on armv7
	$(RACE) -skip '^TestVcan' -timeout 15m ./test/e2e ./buffer $$(go list ./... | grep -v '/test/\(vm\|sim\)$$') # the longest first
	$(RACE) -run '^Test(RandomWeeks|VirtualDay)$$' ./test/sim # what is long runs without the detector
	WAYBILL_WEEKS=1000 go run ./test/gotest ./test/sim
	ARCHES=arm .ci/test-arm $(VEHICLE)
	.ci/fuzz $(FUZZTIME)

test-arm: ## the vehicle's packages on armv7 and arm64 under user-mode emulation
	.ci/test-arm $(VEHICLE)

test-system: assets cross ## the agent on guest kernels with CAN, some of them on emulated hardware; others' brokers and databases; arm64
	go run ./test/gotest -tags system -p 1 -timeout 30m ./test/deps ./test/deploy ./test/browser ./test/chaos ./test/crowd ./uplink/doctor ./fleet/postgres ./cmd/fleet ./fleet/ingest ./fleet/stream ./test/shares ./test/vm
	ARCHES=arm64 .ci/test-arm $(VEHICLE)

fuzz: ## every fuzz target for a minute each
	.ci/fuzz 60s

torture: ## what takes hours: long fuzzing, every test many times over; goes on where it was, TORTURE_TIME=1m shortens
	TORTURE_TIME=$(TORTURE_TIME) .ci/torture

demo: ## a vehicle, a broker and a store on this machine, for DEMO_SECONDS
	@go run ./fleet/page/fetch -try
	DEMO_SECONDS=$(DEMO_SECONDS) go run ./test/demo

bench: ## every benchmark, briefly, with allocations
	go test -run '^$$' -bench . -benchmem -benchtime 200ms -timeout 30m ./...
	@cd test/bench-nmea && export GOFLAGS=-mod=mod && if go mod download 2>/dev/null; then go test -count 1 -run TestRatio -v .; \
	else echo "go-nmea cannot be downloaded: no comparison with it"; fi

lint: check ## check, golangci-lint (built at its pinned version when first used) and shellcheck
	$(LINTER) run ./...
	"$$(test/deps/fetch.sh shellcheck)/usr/bin/shellcheck" test/deps/fetch.sh .ci/*

proto: ## generate proto/*.pb.go from proto/*.proto
	cd tools && go run ./protogen ../proto $(notdir $(wildcard proto/*.proto))

clean: ## remove what was built; .cache stays, delete it by hand
	rm -rf bin dist
