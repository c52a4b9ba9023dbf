# MQTT QoS 1 while the hub is away: what a PUBACK costs when it says "safe".

# device is the disk under the stores, for its own count of flushes.
device() {
	local part
	part=$(df --output=source "$work" | tail -1)
	lsblk -ndo pkname "$part" 2>/dev/null | grep . || basename "$part"
}
run_durable() {
	local name clients dev order sync addr more
	dev=$(device)
	for ((round = 1; round <= rounds; round++)); do
		say "== durable, round $round of $rounds"
		order=(leafd always default)
		((round % 2)) || order=(default always leafd)
		for name in "${order[@]}"; do
			ports 2
			nats[$name]=${ports[0]} mqtt[$name]=${ports[1]}
			rm -rf "$work/store-$name"
			if [ "$name" = leafd ]; then
				gateway "${ports[@]}" "$work/store-$name" >"$work/$name.conf"
				launch "$name" $leafd "$work/$name.conf"
			else
				sync=""
				[ "$name" = always ] && sync=", sync_interval: always"
				cat >"$work/$name.conf" <<-CONF
					server_name: edge
					listen: "127.0.0.1:${ports[0]}"
					jetstream { store_dir: "$work/store-$name"$sync }
					mqtt { listen: "127.0.0.1:${ports[1]}" }
				CONF
				launch "$name" $nats_server "$work/$name.conf"
			fi
			await "${ports[@]}"
		done
		for clients in 1 10 100; do
			run limits -tag disk -case "${clients}c-w1-128B" -dir "$work" -dur 1s
			for name in "${order[@]}"; do
				more=(-drain=false)
				[ "$name" = leafd ] && more+=(-session=false)
				run durable -tag "$name" -dev "$dev" -dur "${dur}s" -clients "$clients" -addr "127.0.0.1:${mqtt[$name]}" \
					-server-pid "${pid[$name]}" "${more[@]}"
			done
		done
		for name in "${order[@]}"; do stop "$name"; done
	done
}
record_durable() {
	cat <<-'RECORD'

		### Durable MQTT QoS 1 with the hub away, 128 bytes, window 1

		A PUBACK of leafd, and of nats-server with `sync_interval: always` (`always`, for an offline persistent session),
		says that the message is on the disk. `default` is nats-server as it comes: in the page cache, synced within
		2 minutes. `disk` is the disk alone in the same minute: an overwrite of 4 KB, synced, one after the other.

	RECORD
	table -cmd durable -base always -cols msgs_s,ack_p50_us,ack_p99_us,srv_us_msg,flushes_msg,other_util -ratios msgs_s,srv_us_msg
	echo
	table -cmd limits -cols syncs_s,sync_p50_us,sync_p99_us,other_util
}
