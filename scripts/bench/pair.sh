# leafd and nats-server, started alike, each measured in turn.

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
