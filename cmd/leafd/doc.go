// Leafd is an edge gateway: a local broker for NATS clients and MQTT devices that
// puts pins and sensors on subjects and keeps a leafnode link to a NATS hub.
//
//	leafd -c FILE    run with a configuration file
//	leafd -c FILE -t check the file and the credentials it names, and end
//	leafd -v         print the version
//	leafd outbox …   look into outboxes, take out and put in; without more it tells how
//
// Without a file it serves NATS clients on 127.0.0.1:4222.
//
// Reading order: main.go (flags, signals), daemon.go (who is wired to whom, and the
// order of stopping), pubacks.go (what publishers into an outbox are told),
// pubacks_ids.go, snapshot.go (what monitoring shows), outbox.go (leafd outbox),
// boxes.go and ctl.go (what it works on), config.go and the files
// that start with config_, logging.go, creds.go.
package main
