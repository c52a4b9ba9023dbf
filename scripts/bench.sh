#!/usr/bin/env bash
# Measures leafd beside the nats-server that go.mod pins, in one run, and prints
# markdown for docs/BENCHMARKS.md on the standard output (progress goes to stderr).
# Each part is a file in scripts/bench.
#
#   PARTS    default "broker rest durable outage backlog flash"; flash needs root
#   ROUNDS   rounds; each cell is the median over them with its range. Default 3;
#            5 for a record. Within a round the servers take turns case by case.
#            Outages are tried once for every three rounds, a backlog once.
#   DUR      seconds of load per case (default 2)
#   QUIET    longest wait for an idle machine before each case (default 10s)
#   OUT      directory for results.jsonl (default: a temporary one)
#
# Servers run pinned to the last core, generator and hub to the first.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go} version=${VERSION:-unknown} rounds=${ROUNDS:-3} dur=${DUR:-2} quiet=${QUIET:-10s} tags=${TAGS:-nethttpomithttp2}
parts=${PARTS:-broker rest durable outage backlog flash}
root=$PWD out=${OUT:-} pids=() mounts=()

cleanup() {
	[ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
	wait
	[ ${#mounts[@]} = 0 ] || umount -l "${mounts[@]}" 2>/dev/null || true
	rm -rf "$work"
}
mkdir -p bin
work=$(mktemp -d "$root/bin/bench.XXXXXX") # not in /tmp, which may be memory
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
CGO_ENABLED=0 "$go" "${build[@]}" -tags "$tags" -ldflags "-s -w -X main.version=$version" -o bin/leafd ./cmd/leafd
CGO_ENABLED=0 "$go" "${build[@]}" -ldflags "-s -w" -o "$work/nats-server" github.com/nats-io/nats-server/v2
"$go" "${build[@]}" -o bin/perf ./test/perf
perf=$root/bin/perf
leafd="${on_server[*]} $root/bin/leafd -c"
nats_server="${on_server[*]} $work/nats-server -c"

# --- what the parts share ---------------------------------------------------
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
declare -A pid nats mqtt # of the servers that run, by name
launch() { # NAME COMMAND...: in the background
	local name=$1
	shift
	"$@" >"$work/$name.log" 2>&1 &
	pid[$name]=$!
	pids+=($!)
}
stop() { # NAME
	kill "${pid[$1]}"
	wait "${pid[$1]}" || true
}
ports() { # N: free ports, as ports[0]…
	mapfile -t ports < <("$perf" ports -n "$1")
}
# run SUBCOMMAND FLAGS...: one measurement
run() { "${on_generator[@]}" "$perf" "$1" -json "$results" -quiet "$quiet" "${@:2}" >&2; }
table() { "$perf" summary "$@" "$results"; }
# gateway NATS MQTT STORE [LEAFPORT]: a leafd that keeps perf.> for a hub
gateway() {
	cat <<-CONF
		server_name: edge
		listen: "127.0.0.1:$1"
		mqtt { listen: "127.0.0.1:$2" }
		leafnodes { reconnect: "250ms", remotes: [ { urls: [ "nats-leaf://127.0.0.1:${4:-9}" ] } ] }
		store { dir: "$3" }
		outbox { perf { subjects: [ "perf.>" ], max_bytes: 4GB } }
	CONF
}

for part in $parts; do
	source "scripts/bench/$part.sh"
	"run_$part"
done

cat <<RECORD
leafd $("$root/bin/leafd" -v 2>&1 | tail -1), $("$work/nats-server" -v), $("$go" version | cut -d' ' -f3-).
$(date -u +%F), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) cores, Linux $(uname -r).
Median (minimum–maximum) of $rounds rounds of $dur s; server pinned to one core, generator to another.
\`srv_us_msg\` is server CPU in microseconds per message, which is CPU seconds per million messages;
\`srv_util\` is how much of its core the server used: near 1, the server is the limit.
\`other_util\` is what the rest of the machine used meanwhile, in cores: the noise.
RECORD
for part in $parts; do "record_$part"; done
