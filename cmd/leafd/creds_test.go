package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCheckCreds(t *testing.T) {
	jwt := "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJKV1QifQ.e30.c2ln\n------END NATS USER JWT------\n\n"
	seed := "-----BEGIN USER NKEY SEED-----\n" + testSeed + "\n------END USER NKEY SEED------\n"
	for _, c := range []struct{ text, want string }{
		{jwt + seed, ""},
		{seed, "there is no user JWT in it; put a file made by"},
		{jwt, "there is no user seed in it; put a file made by"},
		{"", "there is no user JWT in it"},
	} {
		path := filepath.Join(t.TempDir(), "hub.creds")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkCreds(path)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), testSeed)) {
			t.Errorf("%q: %v does not say %q", c.text, err, c.want)
		}
	}
}

func TestStartErrorsSayWhatToDo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	_, taken := net.Listen("tcp", addr)
	_, port, _ := net.SplitHostPort(addr)
	_, missing := os.Open("/nonexistent/leafd/x")
	denied := &os.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}
	for _, c := range []struct {
		err  error
		want string
	}{
		{listenError("MQTT", "mqtt.listen", addr, taken), "cannot listen on " + addr + " for MQTT: bind: address already in use; another program has this port: ss -ltnp 'sport = :" + port + "' shows it; stop it or set mqtt.listen to another"},
		{listenError("NATS", "listen", "0.0.0.0:80", &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EACCES)}), "cannot listen on 0.0.0.0:80 for NATS: bind: permission denied; ports below 1024 need a privilege: set listen to a higher one"},
		{listenError("NATS", "listen", "1.2.3.4:80", syscall.EADDRNOTAVAIL), "cannot listen on 1.2.3.4:80 for NATS: cannot assign requested address; this machine does not have that address: ip addr lists those it has; correct listen"},
		{storeError("/x", denied), "cannot open the store in /x: permission denied; let the user leafd runs as read and write it (chown, chmod)"},
		{storeError("/x", fmt.Errorf("open journal: %w", syscall.EROFS)), "cannot open the store in /x: open journal: read-only file system; the file system is read-only: remount it, or name a path on another"},
		{storeError("/x", syscall.ENOSPC), "the file system is full: free some space"},
		{credsError("/x", missing), `cannot use credentials /x: no such file or directory; put a file made by "nsc generate creds" there, or correct leafnodes.remotes.credentials`},
	} {
		if !strings.HasSuffix(c.err.Error(), c.want) {
			t.Errorf("got  %v\nwant %s", c.err, c.want)
		}
	}
}
