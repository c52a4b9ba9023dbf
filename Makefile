# What a person or a CI job runs. Needs Go; `make test` also what .ci/run installs.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SOAK_CHECKS ?= 10000
# HTTP/2, which nothing in leafd speaks, is 0.46 MB.
TAGS     = nethttpomithttp2
LDFLAGS  = -s -w -X main.version=$(VERSION)

.DEFAULT_GOAL := build
.PHONY: build demo test race check cross bench profile crash outage interop interop-go interop-c interop-js fuzz soak clean

## build: leafd for this machine, as bin/leafd
build:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/leafd ./cmd/leafd

## demo: a gateway with a hub; pull the cable, plug it in, count. DEMO_FLAGS="-for 20s" or -script
demo:
	@$(GO) build -buildvcs=false -o bin/demo ./scripts/demo
	@bin/demo $(DEMO_FLAGS)

## test: all tests, then all tests under the race detector
test:
	$(GO) vet ./...
	$(GO) test -timeout 20m ./...
	$(MAKE) race

## race: all tests under the race detector; leafd itself is built with it as well
race:
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

## check: format, vet, staticcheck, and who may import whom
check:
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then gofmt -d $$unformatted; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags leafdtestclock ./cmd/leafd
	$(GO) vet -tags profile ./cmd/leafd
	$(GO) tool staticcheck ./...
	$(GO) test ./internal

## cross: static, stripped binaries for each board in dist/, and their sizes; go vet for each, tests too
cross:
	GO='$(GO)' VERSION='$(VERSION)' TAGS='$(TAGS)' scripts/cross.sh

## bench: leafd beside nats-server, as markdown; ROUNDS=5 for a record, 3 (default) for a look; PARTS="broker rest durable outage backlog flash"
bench:
	GO='$(GO)' VERSION='$(VERSION)' TAGS='$(TAGS)' scripts/bench.sh

## profile: where leafd spends its time under these loads, for the compiler, as cmd/leafd/default.pgo; four minutes
profile:
	GO='$(GO)' TAGS='$(TAGS)' scripts/profile.sh

## crash: cut the power, kill, damage, and break the disk under a running leafd, and count
## what was lost; root, strace. CRASH_FLAGS="-part power" or FAULTS_FLAGS for less
crash:
	$(GO) build -trimpath -buildvcs=false -o bin/crash ./test/crash
	bin/crash $(CRASH_FLAGS)
	$(GO) build -trimpath -buildvcs=false -o bin/faults ./test/faults
	bin/faults $(FAULTS_FLAGS)

## outage: take the hub, and nodes of a cluster, away under load, and count what arrived; OUTAGE_FLAGS="-msgs 20000 -long"
outage:
	$(GO) run -buildvcs=false ./test/outage $(OUTAGE_FLAGS)

## interop: the nats command against leafd and against nats-server; builds it first, two minutes
interop:
	cd test/interop && $(GO) vet ./... && $(GO) test -count 1 -timeout 20m -skip 'TestNatsGo|TestNatsC' .

## interop-go: the tests of nats.go itself against nats-server and leafd, ten minutes; SUITE_RUN=TestDrain for some of them
interop-go:
	cd test/interop && $(GO) test -count 1 -timeout 60m -v -run TestNatsGo . $(if $(SUITE_RUN),-suite.run '$(SUITE_RUN)')

## interop-c: the official C client against both; needs a C compiler and Debian's libnats-dev
interop-c:
	cd test/interop && $(GO) test -count 1 -timeout 20m -v -run TestNatsC .

## fuzz: each fuzz target for FUZZTIME (default 30s)
fuzz:
	GO='$(GO)' scripts/fuzz.sh

## soak: the log against its model for a million steps, with crashes, faults of the disk and hubs that
## go back; about 40 min. A crash is a copy of the files here, so a disk in RAM will do
soak:
	TMPDIR=$$(test -w /dev/shm && echo /dev/shm || echo /tmp) $(GO) test ./storefwd -run TestLogAgainstModel -count 1 -timeout 0 -v -setback -rapid.checks=$(SOAK_CHECKS) -rapid.steps=100

## interop-js: the official JavaScript client over TCP, WebSocket, and in headless Chromium; needs
## node, npm, openssl and chromium. JS_FLAGS="PROGRAM..." for other servers
interop-js: build
	cd test/interop/js && npm ci --no-audit --no-fund && node --experimental-websocket run.js $(if $(JS_FLAGS),$(JS_FLAGS),$(CURDIR)/bin/leafd)

clean:
	rm -rf bin dist
