# Bytes that reach the device for each message: an ext4 on a loop device in memory
# that only the store is on. Needs root.

flash() { # TAG CASE COMMAND FLAGS...: one server on a fresh file system
	local tag=$1 case=$2 command=$3 image=$work/flash.img dir=$work/flash dev
	shift 3
	[ -d /dev/shm ] && image=/dev/shm/leafd-flash.$$
	truncate -s 512M "$image"
	mkfs.ext4 -q -m 0 "$image"
	mkdir -p "$dir"
	mount -o loop,noatime "$image" "$dir"
	mounts+=("$dir")
	dev=$(basename "$(losetup -n -O NAME -j "$image")")
	run flash -tag "$tag" -case "$case" -cmd "$command" -dir "$dir" -dev "${dev// /}" -addr "127.0.0.1:${ports[1]}" "$@"
	umount "$dir"
	rm "$image"
}
run_flash() {
	local sync
	if [ "$(id -u)" != 0 ]; then
		say "flash: needs root for a loop device; left out"
		return
	fi
	say "== flash"
	ports 4
	gateway "${ports[0]}" "${ports[1]}" "$work/flash/store" >"$work/offline.conf"
	gateway "${ports[0]}" "${ports[1]}" "$work/flash/store" "${ports[3]}" >"$work/online.conf"
	for sync in always default; do
		cat >"$work/flash-$sync.conf" <<-CONF
			server_name: edge
			listen: "127.0.0.1:${ports[0]}"
			jetstream { store_dir: "$work/flash/js"$([ $sync = default ] || echo ", sync_interval: $sync") }
			mqtt { listen: "127.0.0.1:${ports[1]}" }
		CONF
	done
	local leafd_off="$leafd $work/offline.conf" always="$nats_server $work/flash-always.conf" stock="$nats_server $work/flash-default.conf"
	flash leafd "offline, 1 client" "$leafd_off" -n 50000
	flash always "offline, 1 client" "$always" -n 10000 -session
	flash leafd "offline, 100 clients" "$leafd_off" -n 200000 -clients 100
	flash leafd "offline, 100 clients, before folding" "$leafd_off" -n 15000 -clients 100 -signal kill
	flash always "offline, 100 clients" "$always" -n 20000 -clients 100 -session
	flash default "offline, 100 clients" "$stock" -n 200000 -clients 100 -session
	rm -rf "$work/hub"
	cat >"$work/hub.conf" <<-CONF
		server_name: hub
		listen: "127.0.0.1:${ports[2]}"
		jetstream { store_dir: "$work/hub", domain: hub }
		leafnodes { listen: "127.0.0.1:${ports[3]}" }
	CONF
	launch hub "${on_generator[@]}" "$work/nats-server" -c "$work/hub.conf"
	await "${ports[2]}" "${ports[3]}"
	"$perf" stream -addr "127.0.0.1:${ports[2]}" -name PERF -subjects 'perf.>'
	flash leafd "online, 1 client" "$leafd $work/online.conf" -n 50000
	flash leafd "online, 100 clients" "$leafd $work/online.conf" -n 200000 -clients 100
	stop hub
}
record_flash() {
	cat <<-'RECORD'

		### Bytes written per message, 100 bytes at QoS 1, window 1

		`dev_b_msg` reached the block device, an ext4 of its own (noatime, default journal), from before the first publish
		until the server had ended and the file system was synced: folding and the file system's own writes included.
		`app_b_msg` was handed to system calls until just before the end, a few bytes for the sockets included. A long outage
		writes a record twice, to the journal and to bbolt; `before folding` is one that the journal holds: once only.

	RECORD
	table -cmd flash -cols acked,dev_b_msg,app_b_msg
}
