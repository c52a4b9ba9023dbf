# The broker at rest: memory and wake-ups of connections, of consumers that do not read, of
# servers that were just started; size of the binary.

source scripts/bench/pair.sh

run_rest() {
	CGO_ENABLED=0 GOARCH=arm64 "$go" "${build[@]}" -tags "$tags" -ldflags "-s -w" -o "$work/leafd-arm64" ./cmd/leafd
	CGO_ENABLED=0 GOARCH=arm64 "$go" "${build[@]}" -ldflags "-s -w" -o "$work/nats-arm64" github.com/nats-io/nats-server/v2
	run_connections
	run_start
	run_at_rest
}

# Wake-ups with 100 connections that are idle, memory of 5,000, and of 1,000 that do not read, each with
# servers that have served nobody else.
run_connections() {
	local case
	for ((round = 1; round <= rounds; round++)); do
		for case in "nats-idle -conns 100 -dur 20s" "nats-idle -conns 5000" "mqtt-idle -conns 5000" "nats-slow -conns 1000 -dur 8s"; do
			for name in "${servers[@]}"; do start "$name"; done
			measure $case
			for name in "${servers[@]}"; do stop "$name"; done
		done
	done
}

# start_often CASE STORE FLAGS...: each server as conf[name] says, with an empty store, rounds times
start_often() {
	local name case=$1 store=$2
	for ((round = 1; round <= rounds; round++)); do
		for name in "${servers[@]}"; do
			rm -rf "$store"
			run startup -tag "$name" -case "$case" -dur 5s -cmd "${on_server[*]} ${binary[$name]} -c ${conf[$name]}" "${@:3}"
		done
	done
}

# Both servers with MQTT and monitoring, and nothing else.
run_start() {
	local name
	ports 3
	declare -A conf listen=([leafd]="" [nats-server]="jetstream { store_dir: \"$work/js\" }")
	for name in "${servers[@]}"; do
		conf[$name]=$work/start-$name.conf
		cat >"${conf[$name]}" <<-CONF
			server_name: start
			listen: "127.0.0.1:${ports[0]}"
			http: "127.0.0.1:${ports[1]}"
			mqtt { listen: "127.0.0.1:${ports[2]}" }
			${listen[$name]}
		CONF
	done
	start_often "MQTT, monitoring" "$work/js" -runs 5 -proto nats -addr "127.0.0.1:${ports[0]}"
}

# leafd as the demo configures it; nats-server with what it has of that: the same
# listeners, a store, and the link to a hub. Both have the same live hub.
run_at_rest() {
	ports 5
	export LEAFD_NATS_PORT=${ports[0]} LEAFD_MQTT_PORT=${ports[1]} LEAFD_HTTP_PORT=${ports[2]} LEAFD_STORE="\"$work/store\""
	export LEAFD_HUB_URL="\"nats-leaf://127.0.0.1:${ports[4]}\""
	cat >"$work/hub.conf" <<-CONF
		server_name: hub
		listen: "127.0.0.1:${ports[3]}"
		jetstream { store_dir: "$work/hub", domain: hub }
		leafnodes { listen: "127.0.0.1:${ports[4]}" }
	CONF
	cat >"$work/gateway.conf" <<-'CONF'
		server_name: gateway
		host: "127.0.0.1", port: $LEAFD_NATS_PORT
		http: $LEAFD_HTTP_PORT
		mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
		jetstream { store_dir: $LEAFD_STORE, domain: gateway }
		leafnodes { remotes: [ { url: $LEAFD_HUB_URL } ] }
	CONF
	launch hub "${on_generator[@]}" "$work/nats-server" -c "$work/hub.conf"
	await "${ports[3]}" "${ports[4]}"
	"$perf" stream -addr "127.0.0.1:${ports[3]}" -name DEMO -subjects 'barn.>'
	declare -A conf=([leafd]=$root/scripts/demo/leafd.conf [nats-server]=$work/gateway.conf)
	start_often "the demo" "$work/store" -runs 3 -proto mqtt -addr "127.0.0.1:$LEAFD_MQTT_PORT"
	stop hub
}

mb() { awk "BEGIN { printf \"%.2f\", $(stat -c %s "$1") / 1e6 }"; }
record_rest() {
	cat <<-'RECORD'

		### Idle connections with one subscription each

	RECORD
	for cmd in nats-idle mqtt-idle; do
		table -base nats-server -cmd $cmd -cols kb_conn,srv_rss_mb,cpu_pct,ctxsw_s,other_util -ratios kb_conn
		echo
	done
	cat <<-'RECORD'
		### 1,000 NATS subscribers that do not read, under flood

		One publisher sends 1 KB messages as fast as it may; another pair makes 500 requests a second, before and meanwhile.

	RECORD
	table -base nats-server -cmd nats-slow -cols srv_peak_mb,flood_s,before_p50_us,before_p99_us,meanwhile_p50_us,meanwhile_p99_us,other_util -ratios srv_peak_mb
	cat <<-'RECORD'

		### At rest

		With MQTT and monitoring, and nothing else; and as a gateway: leafd with `scripts/demo/leafd.conf`; nats-server with the same listeners, a store and the same hub, without
		sensors and outbox, which it does not have. Memory 3 s after the start; `ready` is the first PONG (in the demo CONNACK), from the start of the process.

	RECORD
	table -base nats-server -cmd startup -cols rss_mb,anon_mb,cpu_pct,ctxsw_s,ready_ms,start_cpu_ms -ratios rss_mb,anon_mb
	cat <<-RECORD

		### Size of the stripped binary for linux/arm64

		| server | MB |
		|---|---|
		| leafd | $(mb "$work/leafd-arm64") |
		| nats-server | $(mb "$work/nats-arm64") |
	RECORD
}
