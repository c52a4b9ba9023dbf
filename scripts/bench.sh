#!/usr/bin/env bash
# Measures leafd beside the nats-server that go.mod pins, in one run, and prints
# markdown for docs/BENCHMARKS.md on the standard output (progress goes to stderr).
#
#   ROUNDS   rounds; each cell is the median over them with its range. Default 3;
#            5 for a record. Within a round the two servers take turns case by case.
#   DUR      seconds of load per case (default 2)
#   QUIET    longest wait for an idle machine before each case (default 10s)
#   OUT      directory for results.jsonl and logs (default: a temporary one)
#
# Servers run pinned to the last core, generator and hub to the first.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go} version=${VERSION:-unknown} rounds=${ROUNDS:-3} dur=${DUR:-2} quiet=${QUIET:-10s}
root=$PWD out=${OUT:-} pids=()

cleanup() {
	[ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
	wait
	rm -rf "$work"
}
work=$(mktemp -d)
trap cleanup EXIT
trap 'exit 130' INT TERM
out=${out:-$work}
mkdir -p "$out"
results=$(realpath "$out")/results.jsonl
: >"$results"

say() { echo "$*" >&2; }
on_server=() on_generator=()
if [ "$(nproc)" -gt 1 ]; then
	on_server=(taskset -c "$(($(nproc) - 1))") on_generator=(taskset -c 0)
fi

# --- programs ---------------------------------------------------------------
say "building"
build=(build -trimpath -buildvcs=false)
CGO_ENABLED=0 "$go" "${build[@]}" -ldflags "-s -w -X main.version=$version" -o bin/leafd ./cmd/leafd
CGO_ENABLED=0 GOARCH=arm64 "$go" "${build[@]}" -ldflags "-s -w" -o "$work/leafd-arm64" ./cmd/leafd
CGO_ENABLED=0 GOARCH=arm64 "$go" "${build[@]}" -ldflags "-s -w" -o "$work/nats-arm64" github.com/nats-io/nats-server/v2
CGO_ENABLED=0 "$go" "${build[@]}" -ldflags "-s -w" -o "$work/nats-server" github.com/nats-io/nats-server/v2
"$go" "${build[@]}" -o bin/perf ./test/perf
perf=$root/bin/perf
declare -A binary=([leafd]=$root/bin/leafd [nats-server]=$work/nats-server)
servers=(leafd nats-server)

# --- a server under test ----------------------------------------------------
declare -A pid nats mqtt
await() { # PORT...: until all accept
	local port
	for port; do
		for _ in {1..100}; do
			(: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue 2
			sleep 0.1
		done
		say "nothing listens on port $port"
		cat "$work"/*.log >&2
		exit 1
	done
}
start() { # NAME: with an empty store; MQTT of nats-server needs JetStream
	local name=$1 conf=$work/$1.conf ports jetstream=""
	mapfile -t ports < <("$perf" ports -n 2)
	nats[$name]=${ports[0]} mqtt[$name]=${ports[1]}
	[ "$name" = nats-server ] && jetstream="jetstream { store_dir: \"$work/js\" }"
	rm -rf "$work/js"
	cat >"$conf" <<-CONF
		server_name: bench
		listen: "127.0.0.1:${ports[0]}"
		mqtt { listen: "127.0.0.1:${ports[1]}" }
		$jetstream
	CONF
	"${on_server[@]}" "${binary[$name]}" -c "$conf" >"$work/$name.log" 2>&1 &
	pid[$name]=$!
	pids+=($!)
	await "${ports[@]}"
}
stop() { # NAME
	kill "${pid[$1]}"
	wait "${pid[$1]}" || true
}
measure() { # SUBCOMMAND FLAGS...: each server once, who is first changes from round to round
	local name order=("${servers[@]}")
	((round % 2)) || order=(nats-server leafd)
	for name in "${order[@]}"; do
		local addr=127.0.0.1:${nats[$name]} more=()
		[ "$1" = mqtt-pub ] && addr=127.0.0.1:${mqtt[$name]} more=(-nats-addr "127.0.0.1:${nats[$name]}")
		"${on_generator[@]}" "$perf" "$1" -tag "$name" -json "$results" -quiet "$quiet" -dur "${dur}s" \
			-addr "$addr" -server-pid "${pid[$name]}" "${more[@]}" "${@:2}" >&2
	done
}
for ((round = 1; round <= rounds; round++)); do
	say "== round $round of $rounds"
	for name in "${servers[@]}"; do start "$name"; done
	for size in 16 128 1024; do measure nats-pubsub -size $size; done
	for size in 16 128 1024; do measure nats-pubsub -size $size -topo fan -subs 8; done
	for qos in 0 1; do measure mqtt-pub -qos $qos -clients 10 -window 100 -sub nats; done
	for name in "${servers[@]}"; do stop "$name"; done
done

# --- at rest, as a gateway --------------------------------------------------
# leafd as the demo configures it; nats-server with what it has of that: the same
# listeners, a store, and the link to a hub. Both have the same live hub.
mapfile -t ports < <("$perf" ports -n 5)
export LEAFD_NATS_PORT=${ports[0]} LEAFD_MQTT_PORT=${ports[1]} LEAFD_HTTP_PORT=${ports[2]} LEAFD_STORE="\"$work/store\""
export LEAFD_HUB_URL="\"nats-leaf://127.0.0.1:${ports[4]}\""
cat >"$work/hub.conf" <<CONF
server_name: hub
listen: "127.0.0.1:${ports[3]}"
jetstream { store_dir: "$work/hub", domain: hub }
leafnodes { listen: "127.0.0.1:${ports[4]}" }
CONF
cat >"$work/gateway.conf" <<'CONF'
server_name: gateway
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
jetstream { store_dir: $LEAFD_STORE, domain: gateway }
leafnodes { remotes: [ { url: $LEAFD_HUB_URL } ] }
CONF
"${on_generator[@]}" "$work/nats-server" -c "$work/hub.conf" >"$work/hub.log" 2>&1 &
pids+=($!)
await "${ports[3]}" "${ports[4]}"
"$perf" stream -addr "127.0.0.1:${ports[3]}" -name DEMO -subjects 'barn.>'
declare -A conf=([leafd]=$root/scripts/demo/leafd.conf [nats-server]=$work/gateway.conf)
for ((round = 1; round <= rounds; round++)); do
	for name in "${servers[@]}"; do
		rm -rf "$work/store"
		"${on_generator[@]}" "$perf" startup -tag "$name" -json "$results" -runs 3 -dur 5s -proto mqtt \
			-addr "127.0.0.1:$LEAFD_MQTT_PORT" -cmd "${on_server[*]} ${binary[$name]} -c ${conf[$name]}" >&2
	done
done

# --- the record -------------------------------------------------------------
table() { "$perf" summary -base nats-server "$@" "$results"; }
cat <<RECORD
leafd $("$root/bin/leafd" -v 2>&1 | tail -1), $("$work/nats-server" -v), $("$go" version | cut -d' ' -f3-).
$(date -u +%F), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) cores, Linux $(uname -r).
Median (minimum–maximum) of $rounds rounds of $dur s; server pinned to one core, generator to another.
\`srv_us_msg\` is server CPU in microseconds per message, which is CPU seconds per million messages;
\`srv_util\` is how much of its core the server used: near 1, the server is the limit.
\`other_util\` is what the rest of the machine used meanwhile, in cores: the noise.

### NATS publish and subscribe

RECORD
table -cmd nats-pubsub -cols msgs_s,srv_us_msg,srv_util,other_util,lost -ratios msgs_s,srv_us_msg
cat <<'RECORD'

### MQTT to a NATS subscriber, 10 clients, window 100, 128 bytes

At QoS 1 nats-server writes each message to a JetStream stream in its file store before the PUBACK (not synced);
leafd has no outbox for the subject here and stores nothing: the PUBACK says that the message was delivered to
the subscriber's connection.

RECORD
table -cmd mqtt-pub -cols msgs_s,srv_us_msg,srv_util,ack_p50_us,other_util,lost,dups -ratios msgs_s,srv_us_msg
cat <<'RECORD'

### At rest, as a gateway

leafd with `scripts/demo/leafd.conf`; nats-server with the same listeners, a store and the same hub, without
sensors and outbox, which it does not have. Memory 3 s after the start.

RECORD
table -cmd startup -cols rss_mb,anon_mb,cpu_pct,ctxsw_s,ready_ms,start_cpu_ms -ratios rss_mb,anon_mb
mb() { awk "BEGIN { printf \"%.2f\", $(stat -c %s "$1") / 1e6 }"; }
cat <<RECORD

### Size of the stripped binary for linux/arm64

| server | MB |
|---|---|
| leafd | $(mb "$work/leafd-arm64") |
| nats-server | $(mb "$work/nats-arm64") |
RECORD
