# The broker under load: NATS and MQTT throughput, request-reply.

source scripts/bench/pair.sh

run_broker() {
	local name size qos clients
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
}
# floor FLAGS...: a relay that moves the same bytes through two sockets
floor() {
	ports 1
	launch relay "${on_server[@]}" "$perf" relay -listen "127.0.0.1:${ports[0]}"
	await "${ports[0]}"
	run nats-pubsub -relay -tag relay -dur "${dur}s" -addr "127.0.0.1:${ports[0]}" -server-pid "${pid[relay]}" "$@"
	stop relay
}

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

		### MQTT to a NATS subscriber, 10 clients, window 100, 128 bytes

		At QoS 1 nats-server writes each message to a JetStream stream in its file store before the PUBACK (not synced);
		leafd has no outbox for the subject here and stores nothing: the PUBACK says that the message was delivered to
		the subscriber's connection.

	RECORD
	table -base nats-server -cmd mqtt-pub -cols msgs_s,srv_us_msg,srv_util,ack_p50_us,other_util,lost,dups -ratios msgs_s,srv_us_msg
}
