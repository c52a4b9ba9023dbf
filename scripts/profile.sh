#!/usr/bin/env bash
# Measures where leafd spends its time under the loads of the benchmarks, and writes that
# to cmd/leafd/default.pgo, by which the compiler decides what to inline (go.dev/doc/pgo).
#
#   DUR   seconds of each load (default 4)
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go} dur=${DUR:-4} tags=${TAGS:-nethttpomithttp2} pid="" n=0
mkdir -p bin
work=$(mktemp -d "$PWD/bin/profile.XXXXXX") # not in /tmp, which may be memory
leafd=$(mktemp -d)/leafd                    # but the profile names this path
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; wait; rm -rf "$work" "${leafd%/*}"' EXIT
trap 'exit 130' INT TERM

"$go" build -pgo=off -trimpath -buildvcs=false -tags "$tags,profile" -o "$leafd" ./cmd/leafd
"$go" build -o "$work/perf" ./test/perf
"$go" build -o "$work/nats-server" github.com/nats-io/nats-server/v2
mapfile -t ports < <("$work/perf" ports -n 5) # NATS, MQTT, profiles, the hub's two
cat >"$work/leafd.conf" <<-CONF
	server_name: edge
	listen: "127.0.0.1:${ports[0]}"
	mqtt { listen: "127.0.0.1:${ports[1]}" }
	leafnodes { reconnect: "250ms", remotes: [ { urls: [ "nats-leaf://127.0.0.1:${ports[4]}" ] } ] }
	store { dir: "$work/store" }
	outbox { kept { subjects: [ "perf.>" ], max_bytes: 4GB } }
CONF
grep -v "^store\|^outbox\|^leafnodes" "$work/leafd.conf" >"$work/broker.conf"
cat >"$work/hub.conf" <<-CONF
	listen: "127.0.0.1:${ports[3]}"
	jetstream { store_dir: "$work/hub", domain: hub }
	leafnodes { listen: "127.0.0.1:${ports[4]}", no_advertise: true }
CONF

start() { # CONF
	rm -rf "$work/store"
	LEAFD_PROFILE=127.0.0.1:${ports[2]} "$leafd" -c "$work/$1.conf" 2>"$work/leafd.log" &
	pid=$!
	until (: <"/dev/tcp/127.0.0.1/${ports[0]}") 2>/dev/null && (: <"/dev/tcp/127.0.0.1/${ports[2]}") 2>/dev/null; do sleep 0.1; done
}
stop() {
	kill "$pid"
	wait "$pid" || true
	pid=""
}
take() { # SECONDS
	"$go" tool pprof -proto -output "$work/$((n += 1)).prof" "http://127.0.0.1:${ports[2]}/debug/pprof/profile?seconds=$1" >/dev/null 2>&1
}
load() { # SUBCOMMAND FLAGS...
	echo "$*" >&2
	"$work/perf" "$1" -dur "$((dur + 1))s" -server-pid "$pid" -json "$work/results.jsonl" "${@:2}" >/dev/null &
	take "$dur"
	wait $!
}

start broker
for flags in "-size 16" "-size 128" "-size 1024" "-size 128 -hdr" "-size 128 -topo fan -subs 8" "-size 128 -pubs 4 -subs 4" \
	"-size 128 -topo many -subs 4" "-size 128 -topo queue -subs 4"; do
	# shellcheck disable=SC2086
	load nats-pubsub -addr "127.0.0.1:${ports[0]}" $flags
done
load nats-rtt -addr "127.0.0.1:${ports[0]}" -clients 100
for qos in 0 1; do
	load mqtt-pub -addr "127.0.0.1:${ports[1]}" -nats-addr "127.0.0.1:${ports[0]}" -qos $qos -clients 10 -window 100 -sub nats
done
stop
for clients in 1 10 100; do
	start leafd
	load durable -addr "127.0.0.1:${ports[1]}" -clients $clients -drain=false -session=false
	stop
done
echo "outage" >&2
LEAFD_PROFILE=127.0.0.1:${ports[2]} "$work/perf" outage -n 400000 -setup hub -hub "127.0.0.1:${ports[3]}" -addr "127.0.0.1:${ports[0]}" \
	-mqtt-addr "127.0.0.1:${ports[1]}" -hub-cmd "$work/nats-server -c $work/hub.conf" -leaf-cmd "$leafd -c $work/leafd.conf" \
	-pub mqtt -pubs 4 -json "$work/results.jsonl" >/dev/null &
until (: <"/dev/tcp/127.0.0.1/${ports[2]}") 2>/dev/null; do sleep 0.1; done
take 6
wait $!
"$go" tool pprof -proto -focus github.com/leafd -output cmd/leafd/default.pgo "$work"/*.prof >/dev/null
ls -l cmd/leafd/default.pgo >&2
