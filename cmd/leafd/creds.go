package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/nats-io/nkeys"
	"golang.org/x/sys/unix"

	"github.com/leafd/leafd/storefwd"
)

// Errors a person meets at the start, each as one line with what to do.

// checkCreds says whether the .creds file at path holds a JWT and the seed of a
// user. The seed is wiped before it returns.
func checkCreds(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return credsError(path, err)
	}
	defer clear(data)
	jwt, err := nkeys.ParseDecoratedJWT(data) // gives the whole file back if nothing in it is marked as a JWT
	if err != nil || strings.Count(jwt, ".") != 2 || strings.ContainsAny(jwt, " \n") {
		return credsError(path, errors.New("there is no user JWT in it"))
	}
	kp, err := nkeys.ParseDecoratedUserNKey(data)
	if err != nil {
		return credsError(path, errors.New("there is no user seed in it"))
	}
	kp.Wipe()
	return nil
}

// credsWarning says that others than the owner and the group may read the file; it is
// empty if they may not, or if the file cannot be looked at.
func credsWarning(path string) string {
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm()&0o007 == 0 {
		return ""
	}
	return fmt.Sprintf("credentials %s can be read by every user (mode %04o): whoever reads them is this gateway to the hub; chmod 600 %s", path, st.Mode().Perm(), path)
}

// credsError explains why the hub's credentials cannot be used.
func credsError(path string, err error) error {
	return fmt.Errorf("cannot use credentials %s: %w; %s", path, reasonOf(err), fileRemedy(err,
		`put a file made by "nsc generate creds" there, or correct leafnodes.remotes.credentials`))
}

// storeError explains why the durable logs in dir cannot be opened.
func storeError(dir string, err error) error {
	if errors.Is(err, storefwd.ErrInUse) {
		return fmt.Errorf("cannot open the store in %s: %w; stop the other leafd, or set store.dir to a directory of its own", dir, err)
	}
	return fmt.Errorf("cannot open the store in %s: %w; %s", dir, reasonOf(err), fileRemedy(err,
		"set store.dir to a directory leafd may write to"))
}

// storeWarning says that the file system of the store may not keep what is written to it;
// it is empty if there is no such doubt.
func storeWarning(dir string) string {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return ""
	}
	return fsWarning(uint32(fs.Type))
}

// fsWarning is storeWarning of a file system by its magic number (statfs(2)).
func fsWarning(magic uint32) string {
	switch magic {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "the store is in memory: what it holds is gone when the machine restarts; set store.dir to a directory on a disk"
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		return "the store is on another machine, whose disk and network decide whether what is acknowledged is safe; set store.dir to a directory on a disk of this one"
	}
	return ""
}

// listenError explains why what ("NATS", "MQTT", "monitoring") cannot listen on
// addr; key is the configuration key that sets it.
func listenError(what, key, addr string, err error) error {
	_, port, _ := net.SplitHostPort(addr)
	remedy := "correct " + key
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = fmt.Sprintf("another program has this port: ss -ltnp 'sport = :%s' shows it; stop it or set %s to another", port, key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = fmt.Sprintf("this machine does not have that address: ip addr lists those it has; correct %s", key)
	case errors.Is(err, syscall.EACCES):
		remedy = fmt.Sprintf("ports below 1024 need a privilege: set %s to a higher one", key)
	}
	return fmt.Errorf("cannot listen on %s for %s: %w; %s", addr, what, reasonOf(err), remedy)
}

// reasonOf strips the operation and the path, which our sentence names already.
func reasonOf(err error) error {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	if oe := (*net.OpError)(nil); errors.As(err, &oe) {
		return oe.Err
	}
	return err
}

func fileRemedy(err error, otherwise string) string {
	switch {
	case errors.Is(err, os.ErrPermission):
		return "let the user leafd runs as read and write it (chown, chmod)"
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only: remount it, or name a path on another"
	case errors.Is(err, syscall.ENOSPC):
		return "the file system is full: free some space"
	}
	return otherwise
}
