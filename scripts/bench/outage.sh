# 200,000 messages while the hub is away, then how long until all are in its stream.

outage() { # NAME HOW FLAGS...: one outage of leafd or of a stock leaf whose stream the hub sources
	local name=$1 how=$2 leaf command setup=hub more=()
	shift 2
	ports 6 # hub, its leafnodes, leaf, its MQTT, the cable
	leaf=${ports[1]}
	if [ "$how" = cut ]; then
		leaf=${ports[4]}
		more=(-hold 20s -proxy "127.0.0.1:${ports[4]},127.0.0.1:${ports[1]}")
	fi
	rm -rf "$work/hub" "$work/leaf"
	cat >"$work/hub.conf" <<-CONF
		server_name: hub
		listen: "127.0.0.1:${ports[0]}"
		jetstream { store_dir: "$work/hub", domain: hub }
		leafnodes { listen: "127.0.0.1:${ports[1]}", no_advertise: true }
	CONF
	if [ "$name" = leafd ]; then
		gateway "${ports[2]}" "${ports[3]}" "$work/leaf" "$leaf" >"$work/leaf.conf"
		command="$leafd $work/leaf.conf"
	else
		setup=source
		cat >"$work/leaf.conf" <<-CONF
			server_name: leaf
			listen: "127.0.0.1:${ports[2]}"
			jetstream { store_dir: "$work/leaf", domain: leaf }
			mqtt { listen: "127.0.0.1:${ports[3]}" }
			leafnodes { remotes: [ { url: "nats-leaf://127.0.0.1:$leaf" } ] }
		CONF
		command="$nats_server $work/leaf.conf"
	fi
	run outage -tag "$name" -case "$how" -setup "$setup" -ceiling -hub "127.0.0.1:${ports[0]}" -addr "127.0.0.1:${ports[2]}" \
		-mqtt-addr "127.0.0.1:${ports[3]}" -hub-cmd "${on_generator[*]} $work/nats-server -c $work/hub.conf" -leaf-cmd "$command" \
		"${more[@]}" "$@"
}
run_outage() {
	local name
	for ((round = 1; round <= (rounds + 2) / 3; round++)); do
		say "== outage, round $round"
		for name in leafd stock-leaf; do
			outage $name restart -pub mqtt -pubs 4
			outage $name cut -pub nats
		done
		outage leafd restart,async -pub mqtt -pubs 4 -persist async
	done
}
record_outage() {
	cat <<-'RECORD'

		### After an outage: 200,000 messages of 128 bytes

		`restart`: the hub is stopped, 4 MQTT clients publish at QoS 1, the hub is started. `cut`: the link alone is cut for
		20 s, a NATS client publishes with acknowledgements. `stock-leaf` is nats-server with a stream of its own that the
		hub's stream sources. Seconds count from the start of the hub, or from the mending of the link; the hub accepts
		connections after `hub_ready_s`. `hub_limit_s` is what the same hub takes per second from a plain pipelined
		JetStream publisher of its own, with 4,000 messages on their way; `drain_of_limit` the share of it that the drain reached.
		In `restart,async` the stream at the hub has `persist_mode: async`: it acknowledges first and writes then.
		`once_limit_s` and `drain_of_once_limit` are the same for a publisher whose messages have a `Nats-Msg-Id` and a `Nats-Expected-Last-Sequence`, as those of leafd.

	RECORD
	table -cmd outage -base stock-leaf -ratios first_s,all_s \
		-cols hub_ready_s,first_s,all_s,drain_s,hub_limit_s,drain_of_limit,once_limit_s,drain_of_once_limit,drain_us_msg,store_s,srv_peak_mb,lost,dups,ooo
}
