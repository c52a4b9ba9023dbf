# The broker: NATS and MQTT throughput, request-reply, memory of connections and at rest,
# size of the binary.

declare -A binary=([leafd]=$root/bin/leafd [nats-server]=$work/nats-server)
servers=(leafd nats-server)

start() { # NAME: with an empty store; MQTT of nats-server needs JetStream
	local name=$1 conf=$work/$1.conf jetstream="" devices="max_connections: 65536"
	ports 2
	nats[$name]=${ports[0]} mqtt[$name]=${ports[1]}
	[ "$name" = nats-server ] && jetstream="jetstream { store_dir: \"$work/js\" }" devices=""
	rm -rf "$work/js"
	cat >"$conf" <<-CONF
		server_name: bench
		listen: "127.0.0.1:${ports[0]}"
		max_connections: 65536
		mqtt { listen: "127.0.0.1:${ports[1]}", $devices }
		$jetstream
	CONF
	launch "$name" "${on_server[@]}" "${binary[$name]}" -c "$conf"
	await "${ports[@]}"
}
measure() { # SUBCOMMAND FLAGS...: each server once, who is first changes from round to round
	local name order=("${servers[@]}")
	((round % 2)) || order=(nats-server leafd)
	for name in "${order[@]}"; do
		local addr=127.0.0.1:${nats[$name]} more=()
		[ "$1" = mqtt-idle ] && addr=127.0.0.1:${mqtt[$name]}
		[ "$1" = mqtt-pub ] && addr=127.0.0.1:${mqtt[$name]} more=(-nats-addr "127.0.0.1:${nats[$name]}")
		run "$1" -tag "$name" -dur "${dur}s" -addr "$addr" -server-pid "${pid[$name]}" "${more[@]}" "${@:2}"
	done
}
run_broker() {
	local name size qos clients
	CGO_ENABLED=0 GOARCH=arm64 "$go" "${build[@]}" -tags "$tags" -ldflags "-s -w" -o "$work/leafd-arm64" ./cmd/leafd
	CGO_ENABLED=0 GOARCH=arm64 "$go" "${build[@]}" -ldflags "-s -w" -o "$work/nats-arm64" github.com/nats-io/nats-server/v2
	for ((round = 1; round <= rounds; round++)); do
		say "== broker, round $round of $rounds"
		for name in "${servers[@]}"; do start "$name"; done
		for size in 16 128 1024 8192; do
			measure nats-pubsub -size $size
			floor -size $size
		done
		measure nats-pubsub -size 128 -hdr
		for size in 16 128 1024; do measure nats-pubsub -size $size -topo fan -subs 8; done
		measure nats-pubsub -size 128 -pubs 4 -subs 4
		measure nats-pubsub -size 128 -topo many -subs 4
		measure nats-pubsub -size 128 -topo queue -subs 4
		measure nats-pub -size 128
		for clients in 1 100; do measure nats-rtt -clients $clients; done
		for qos in 0 1; do measure mqtt-pub -qos $qos -clients 10 -window 100 -sub nats; done
		for name in "${servers[@]}"; do stop "$name"; done
	done
	run_connections
	run_start
	run_at_rest
}
# floor FLAGS...: a relay that moves the same bytes through two sockets
floor() {
	ports 1
	launch relay "${on_server[@]}" "$perf" relay -listen "127.0.0.1:${ports[0]}"
	await "${ports[0]}"
	run nats-pubsub -relay -tag relay -dur "${dur}s" -addr "127.0.0.1:${ports[0]}" -server-pid "${pid[relay]}" "$@"
	stop relay
}

# Wake-ups with 100 connections that are idle, memory of 5,000, and of 1,000 that do not read, each with
# servers that have served nobody else.
run_connections() {
	local case rounds=$(((rounds + 1) / 2))
	for ((round = 1; round <= rounds; round++)); do
		for case in "nats-idle -conns 100 -dur 20s" "nats-idle -conns 5000" "mqtt-idle -conns 5000" "nats-slow -conns 1000 -dur 8s"; do
			for name in "${servers[@]}"; do start "$name"; done
			measure $case
			for name in "${servers[@]}"; do stop "$name"; done
		done
	done
}

# Both servers with MQTT and monitoring, and nothing else.
run_start() {
	local name
	ports 3
	declare -A listen=([leafd]="" [nats-server]="jetstream { store_dir: \"$work/js\" }")
	for name in "${servers[@]}"; do
		cat >"$work/start-$name.conf" <<-CONF
			server_name: start
			listen: "127.0.0.1:${ports[0]}"
			http: "127.0.0.1:${ports[1]}"
			mqtt { listen: "127.0.0.1:${ports[2]}" }
			${listen[$name]}
		CONF
	done
	for ((round = 1; round <= rounds; round++)); do
		for name in "${servers[@]}"; do
			rm -rf "$work/js"
			run startup -tag "$name" -case "MQTT, monitoring" -runs 5 -dur 5s -proto nats -addr "127.0.0.1:${ports[0]}" \
				-cmd "${on_server[*]} ${binary[$name]} -c $work/start-$name.conf"
		done
	done
}

# leafd as the demo configures it; nats-server with what it has of that: the same
# listeners, a store, and the link to a hub. Both have the same live hub.
run_at_rest() {
	local name
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
	for ((round = 1; round <= rounds; round++)); do
		for name in "${servers[@]}"; do
			rm -rf "$work/store"
			run startup -tag "$name" -case "the demo" -runs 3 -dur 5s -proto mqtt -addr "127.0.0.1:$LEAFD_MQTT_PORT" \
				-cmd "${on_server[*]} ${binary[$name]} -c ${conf[$name]}"
		done
	done
	stop hub
}

mb() { awk "BEGIN { printf \"%.2f\", $(stat -c %s "$1") / 1e6 }"; }
record_broker() {
	cat <<-'RECORD'

		### NATS publish and subscribe

	RECORD
	table -base nats-server -cmd nats-pubsub -cols msgs_s,srv_us_msg,srv_util,other_util,lost -ratios msgs_s,srv_us_msg
	cat <<-'RECORD'

		`pair-AxB`: A publishers, B subscribers; `fan`: one to 8; `many`: 10,000 subjects round-robin against 1,000 wildcard
		subscriptions; `queue`: one group of 4; `hdr`: with a header. `relay` moves the same bytes between the same two sockets and does nothing
		else: the floor. Published and wanted by nobody:

	RECORD
	table -base nats-server -cmd nats-pub -cols msgs_s,srv_us_msg,srv_util,other_util -ratios msgs_s,srv_us_msg
	cat <<-'RECORD'

		### Request and reply, 1 and 100 requesters, 128 bytes

	RECORD
	table -base nats-server -cmd nats-rtt -cols req_s,rtt_p50_us,rtt_p99_us,srv_us_msg,other_util -ratios rtt_p50_us,rtt_p99_us,srv_us_msg
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

		### MQTT to a NATS subscriber, 10 clients, window 100, 128 bytes

		At QoS 1 nats-server writes each message to a JetStream stream in its file store before the PUBACK (not synced);
		leafd has no outbox for the subject here and stores nothing: the PUBACK says that the message was delivered to
		the subscriber's connection.

	RECORD
	table -base nats-server -cmd mqtt-pub -cols msgs_s,srv_us_msg,srv_util,ack_p50_us,other_util,lost,dups -ratios msgs_s,srv_us_msg
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
