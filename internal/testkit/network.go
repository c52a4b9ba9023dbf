package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Network is a machine of its own as far as TCP can tell: a network namespace behind a
// cable. Cut, it swallows what is sent to it, as a radio link does that is away: no
// connection is reset and no address refused, which loopback cannot do. There is one at a
// time on a machine.
type Network struct {
	t  T
	ns string
}

// Both ends of the cable. 198.18.0.0/15 is for tests of networks (RFC 2544).
const (
	networkHere = "198.18.77.1"
	networkHost = "198.18.77.2"
)

// StartNetwork lays the cable. It is false if this machine lets nobody do that: it takes
// root and iproute2.
func StartNetwork(t T) (n *Network, ok bool) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 {
		return nil, false
	}
	n = &Network{t: t, ns: fmt.Sprintf("leafd-test-%d", os.Getpid())}
	if exec.Command("ip", "netns", "add", n.ns).Run() != nil {
		return nil, false
	}
	t.Cleanup(func() { n.ip("netns", "del", n.ns) })
	n.ip("link", "add", "leafd-test0", "type", "veth", "peer", "name", "leafd-test1", "netns", n.ns)
	t.Cleanup(func() { n.ip("link", "del", "leafd-test0") }) // with the namespace it would go some time later, and the next one not find room
	n.ip("addr", "add", networkHere+"/24", "dev", "leafd-test0")
	n.ip("link", "set", "leafd-test0", "up")
	n.ip("-n", n.ns, "link", "set", "lo", "up")
	n.ip("-n", n.ns, "link", "set", "leafd-test1", "up")
	n.Mend()
	mac := strings.Fields(n.ip("-n", n.ns, "-br", "link", "show", "leafd-test1"))[2]
	n.ip("neigh", "replace", networkHost, "lladdr", mac, "dev", "leafd-test0", "nud", "permanent") // or the kernel would notice the cut
	return n, true
}

// Cut makes the far end deaf and dumb, Mend undoes it.
func (n *Network) Cut()  { n.ip("-n", n.ns, "addr", "del", networkHost+"/24", "dev", "leafd-test1") }
func (n *Network) Mend() { n.ip("-n", n.ns, "addr", "add", networkHost+"/24", "dev", "leafd-test1") }

// Slow lets so much go to the far end from now on, as "400kbit". It is false if the kernel
// cannot.
func (n *Network) Slow(rate string) bool {
	return exec.Command("tc", "qdisc", "add", "dev", "leafd-test0", "root", "tbf", "rate", rate, "burst", "4kb", "latency", "1s").Run() == nil
}

func (n *Network) ip(args ...string) string {
	n.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// command runs at the far end, or here if there is none.
func (n *Network) command(name string, args ...string) *exec.Cmd {
	if n == nil {
		return exec.Command(name, args...)
	}
	return exec.Command("ip", append([]string{"netns", "exec", n.ns, name}, args...)...)
}
