package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(run(os.Args[1:])) }

// run is the program; it returns the exit code: 0 after an orderly end, 1 if the
// start or the run failed, 2 for wrong flags.
func run(args []string) int {
	if len(args) == 2 && args[0] == checkStoreArg {
		return checkStoreChild(args[1])
	}
	if len(args) > 0 && args[0] == "outbox" {
		return runOutbox(args[1:], os.Stdin, os.Stdout, os.Stderr)
	}
	fs := flag.NewFlagSet("leafd", flag.ContinueOnError)
	var file string
	fs.StringVar(&file, "c", "", "configuration `file`")
	fs.StringVar(&file, "config", "", "configuration `file`")
	check := fs.Bool("t", false, "check the configuration and end")
	show := fs.Bool("v", false, "print the version and end")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "leafd: unexpected argument %q; a configuration file is given with -c\n", fs.Arg(0))
		return 2
	}
	switch {
	case *show:
		fmt.Println("leafd: v" + version)
		return 0
	case *check && file == "":
		fmt.Fprintln(os.Stderr, "leafd: -t checks a configuration file; name it with -c FILE")
		return 2
	case *check:
		return report(checkConfig(file))
	}
	cfg, err := defaultConfig(), error(nil)
	if file != "" {
		cfg, err = loadConfig(file)
	}
	if err != nil {
		return report("", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	d, err := newDaemon(cfg, newLogger(os.Stderr, cfg.Debug))
	if err != nil {
		return report("", err)
	}
	if err := d.run(ctx); err != nil {
		return report("", err)
	}
	return 0
}

func report(text string, err error) int {
	if err != nil {
		for _, line := range configProblems(err) {
			fmt.Fprintln(os.Stderr, "leafd: "+line)
		}
		return 1
	}
	fmt.Fprintln(os.Stderr, text)
	return 0
}
