package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/leafd/leafd/leaf"
)

// version is set by the build.
var version = "dev"

// stockName is the name under which leafd takes the stock server's place: with its
// defaults, its -v and its log lines, as programs that start it expect.
const stockName = "nats-server"

func main() { os.Exit(run(filepath.Base(os.Args[0]), os.Args[1:])) }

// run is the program; it returns the exit code: 0 after an orderly end, 1 if the
// start or the run failed, 2 for wrong flags.
func run(program string, args []string) int {
	if len(args) == 2 && args[0] == checkStoreArg {
		return checkStoreChild(args[1])
	}
	if len(args) > 0 && args[0] == "outbox" {
		return runOutbox(args[1:], os.Stdin, os.Stdout, os.Stderr)
	}
	f, err := parseFlags(program, args)
	redactArgs(args)
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
		return 2
	case f.help:
		fmt.Print(usage(program))
		return 0
	case f.helpTLS:
		fmt.Print(tlsUsage())
		return 0
	case f.show && f.stock:
		fmt.Println(stockName + ": v" + leaf.ProtocolVersion)
		return 0
	case f.show:
		fmt.Println("leafd: v" + version)
		return 0
	case f.signal != "":
		return report(program, "", sendSignal(program, f.signal))
	case f.check && f.config == "":
		fmt.Fprintf(os.Stderr, "%s: -t checks a configuration file; name it with -c FILE\n", program)
		return 2
	case f.check:
		text, err := checkConfig(f)
		return report(program, text, err)
	}
	return serve(program, f)
}

// serve runs the daemon until a signal stops it.
func serve(program string, f *flags) int {
	signals := make(chan os.Signal, 8) // as many as anyone sends before the first is seen to
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cfg, err := loadWith(f.config, f)
	if err != nil {
		return report(program, "", err)
	}
	logs, err := newLogs(cfg, f.stock)
	if err != nil {
		return report(program, "", err)
	}
	defer logs.close()
	d, err := newDaemon(program, cfg, f, logs)
	if err == nil {
		err = d.run(ctx, signals)
	}
	if err != nil {
		for _, line := range configProblems(err) {
			logs.logger().Log(ctx, levelFatal, line)
		}
		return 1
	}
	return 0
}

// report prints a result, or each line of an error.
func report(program, text string, err error) int {
	if err != nil {
		for _, line := range configProblems(err) {
			fmt.Fprintln(os.Stderr, program+": "+line)
		}
		return 1
	}
	if text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	return 0
}

// redactArgs overwrites the secrets of the command line in args, which monitoring
// can show.
func redactArgs(args []string) {
	secret := []string{"user", "pass", "auth"}
	for i, a := range args {
		name, _, inOne := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch {
		case !strings.HasPrefix(a, "-") || !slices.Contains(secret, name):
		case inOne:
			args[i] = "--" + name + "=[REDACTED]"
		case i+1 < len(args):
			args[i+1] = "[REDACTED]"
		}
	}
}
