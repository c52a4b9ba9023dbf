package main

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// portsCmd prints ports that the kernel says are free. It holds all of them until
// it has printed the last, so that no two are the same.
func portsCmd(args []string) error {
	fs := newFlags("ports", &common{}, 0)
	n := fs.Int("n", 1, "how many")
	fs.Parse(args)
	for range *n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		fmt.Println(l.Addr().(*net.TCPAddr).Port)
	}
	return nil
}

// streamCmd creates a stream, so that a server that forwards has where to.
func streamCmd(args []string) error {
	fs := newFlags("stream", &common{}, 0)
	addr := fs.String("addr", "127.0.0.1:4222", "a server with JetStream")
	name := fs.String("name", "PERF", "of the stream")
	subjects := fs.String("subjects", "perf.>", "that it captures, comma separated")
	fs.Parse(args)
	if err := awaitHandshake("nats", *addr, 10*time.Second); err != nil {
		return err
	}
	n, err := natsDial(*addr)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.js("STREAM.CREATE."+*name, streamConfig(*name, obj{"subjects": strings.Split(*subjects, ",")}), nil)
}
