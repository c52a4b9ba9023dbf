package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/leafd/leafd/internal/secure"
)

// The files that tell others of the running daemon: its process id and its ports.
// Both are written once everything listens and removed at a clean stop.

// writePid writes the process id into path, if there is one.
func writePid(path string) error {
	if path == "" {
		return nil
	}
	if err := writeWhole(path, strconv.AppendInt(nil, int64(os.Getpid()), 10)); err != nil {
		return fmt.Errorf("pid_file: cannot write %s: %w; %s", path, reasonOf(err), fileRemedy(err, "choose a path that this user may write"))
	}
	return nil
}

// portsPath is the ports file in dir, "" without a dir.
func portsPath(dir, program string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, fmt.Sprintf("%s_%d.ports", program, os.Getpid()))
}

// portsFile is what stands in it: the URLs of each listener there is.
type portsFile struct {
	NATS       []string `json:"nats,omitempty"`
	Monitoring []string `json:"monitoring,omitempty"`
	MQTT       []string `json:"mqtt,omitempty"`
	WebSocket  []string `json:"websocket,omitempty"`
}

// writePorts writes the ports file into path, if there is one. Readers see all of it
// or nothing.
func (d *daemon) writePorts(path string) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(portsFile{NATS: listenURLs("nats", d.natsLn), Monitoring: listenURLs(webScheme("http", d.secured.http), d.httpLn),
		MQTT: listenURLs("mqtt", d.mqttLn), WebSocket: listenURLs(webScheme("ws", d.secured.ws), d.wsLn)})
	if err == nil {
		err = writeWhole(path, data)
	}
	if err != nil {
		return fmt.Errorf("ports_file_dir: cannot write %s: %w; %s", path, reasonOf(err), fileRemedy(err, "choose a directory that this user may write to"))
	}
	return nil
}

// webScheme is clear, or what it is called over TLS.
func webScheme(clear string, t *secure.Source) string {
	if t != nil {
		return clear + "s"
	}
	return clear
}

// listenURLs are the addresses at which ln can be reached: for one on every
// interface, one of each.
func listenURLs(scheme string, ln *listener) []string {
	if ln == nil {
		return nil
	}
	addr, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return []string{scheme + "://" + ln.Addr().String()}
	}
	if !addr.IP.IsUnspecified() {
		return []string{scheme + "://" + addr.String()}
	}
	var urls []string
	ifs, _ := net.InterfaceAddrs() // without them there is still the loopback
	for _, a := range ifs {
		if n, ok := a.(*net.IPNet); ok {
			urls = append(urls, scheme+"://"+net.JoinHostPort(n.IP.String(), strconv.Itoa(addr.Port)))
		}
	}
	if len(urls) == 0 {
		urls = []string{scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(addr.Port))}
	}
	return urls
}

// writeWhole replaces the file at path in one step.
func writeWhole(path string, data []byte) error {
	temp := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	err := os.WriteFile(temp, data, 0o644)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}

// removeFile is os.Remove for a file that may not have been asked for, or be gone.
func removeFile(path string) error {
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
