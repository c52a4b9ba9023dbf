# Memory and starts with 1 GB in the store. BACKLOG: its bytes.

run_backlog() {
	say "== backlog"
	ports 2
	gateway "${ports[@]}" "$work/backlog" >"$work/backlog.conf"
	run backlog -tag leafd -cmd "$leafd $work/backlog.conf" -store "$work/backlog" -addr "127.0.0.1:${ports[1]}" \
		-bytes "${BACKLOG:-1073741824}"
	rm -rf "$work/backlog"
}
record_backlog() {
	cat <<-'RECORD'

		### A backlog of 1 GB

		1 KB messages over MQTT at QoS 1, the hub away. `ready` is the time from the start of the process to the first PUBACK,
		with an empty store and after SIGTERM and SIGKILL with the backlog in it; memory 5 s after that.

	RECORD
	table -cmd backlog -cols msgs_s,disk_mb,empty_ready_s,term_ready_s,kill_ready_s
	echo
	table -cmd backlog -cols empty_anon_mb,full_anon_mb,term_anon_mb,kill_anon_mb,full_file_growth_mb,term_file_growth_mb,kill_file_growth_mb,full_peak_mb
}
