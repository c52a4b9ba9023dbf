// Leafd is an edge gateway: a local broker for NATS clients and MQTT devices that
// puts pins and sensors on subjects and keeps a leafnode link to a NATS hub.
//
//	leafd -c FILE    run with a configuration file
//	leafd -c FILE -t check the file and the credentials it names, and end
//	leafd -h         show all flags, which are nats-server's; -v the version
//	leafd outbox …   look into outboxes, take out and put in; without more it tells how
//
// Without a file it serves NATS clients on 127.0.0.1:4222. Started under the name
// nats-server it has that server's defaults, -v and log lines.
//
// Reading order: main.go, flags.go, daemon.go (who is wired to whom, and the
// order of stopping), pubacks.go (what publishers into an outbox are told),
// pubacks_ids.go, snapshot.go and connz.go (what monitoring shows), services.go (answers
// and events on $SYS subjects), outbox.go (leafd outbox),
// boxes.go and ctl.go (what it works on), config.go and the files
// that start with config_, logging.go and the files
// that start with log_, signals.go (what signals do), signal_command.go (--signal),
// listener.go, files.go (pid and ports), creds.go.
package main
