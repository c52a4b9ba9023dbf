package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/leafd/leafd/storefwd"
)

const outboxUsage = `usage: leafd outbox ls                               what each outbox holds
       leafd outbox peek   NAME [-n 10] [-from SEQ]  show messages, the oldest first
       leafd outbox export NAME [-from SEQ] > FILE   all messages, one line of JSON each
       leafd outbox import NAME < FILE               append them as new messages
       leafd outbox drop   NAME -to SEQ | -all [-y]  give messages up, for good
       leafd outbox verify                           read everything, compare checksums
       leafd outbox release                          close the store's files, to unmount and check the disk

-c FILE, behind what is to be done, names the configuration, by default that in
/etc/leafd/leafd.conf. A leafd that runs is asked; otherwise the store is opened.
`

const defaultConfigFile = "/etc/leafd/leafd.conf"

// outboxCmd is one call of "leafd outbox".
type outboxCmd struct {
	verb, name, config string
	n                  int
	from, to           uint64
	all, yes           bool

	in     io.Reader
	out    io.Writer
	errOut io.Writer
}

// runOutbox returns the exit code: 0 if it was done, or the usage asked for, 1 if not or if something is
// damaged, 2 for a call that is wrong.
func runOutbox(args []string, in io.Reader, out, errOut io.Writer) int {
	c := &outboxCmd{in: in, out: out, errOut: errOut}
	err := c.parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, outboxUsage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(errOut, "leafd: outbox: %v\n%s", err, outboxUsage)
		return 2
	}
	if err := c.run(); err != nil {
		for _, line := range configProblems(err) {
			fmt.Fprintln(errOut, "leafd: "+line)
		}
		return 1
	}
	return 0
}

// parse takes flags before and after the name. Its error is flag.ErrHelp for who asks how
// the command is used.
func (c *outboxCmd) parse(args []string) error {
	if len(args) == 0 {
		return errors.New("says not what to do")
	}
	c.verb = args[0]
	f := flag.NewFlagSet("outbox "+c.verb, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.config, "c", "", "")
	named := true
	switch c.verb {
	case "ls", "verify", "release":
		named = false
	case "peek":
		f.IntVar(&c.n, "n", 10, "")
		f.Uint64Var(&c.from, "from", 0, "")
	case "export":
		f.Uint64Var(&c.from, "from", 0, "")
	case "import":
	case "-h", "-help", "--help", "help":
		return flag.ErrHelp
	case "drop":
		f.Uint64Var(&c.to, "to", 0, "")
		f.BoolVar(&c.all, "all", false, "")
		f.BoolVar(&c.yes, "y", false, "")
	default:
		return fmt.Errorf("does not know %q", c.verb)
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if named && f.NArg() > 0 {
		c.name = f.Arg(0)
		if err := f.Parse(f.Args()[1:]); err != nil {
			return err
		}
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("%s: unexpected argument %q", c.verb, f.Arg(0))
	case named && !validName(strings.TrimPrefix(c.name, nameless)):
		return fmt.Errorf("%s: needs the name of an outbox", c.verb)
	case c.verb == "drop" && c.all == (c.to > 0):
		return errors.New("drop: needs either -to SEQ or -all")
	case c.verb == "peek" && c.n < 1:
		return errors.New("peek: -n is at least 1")
	}
	return nil
}

func (c *outboxCmd) run() error {
	cfg, err := c.loadConfig()
	if err != nil {
		return err
	}
	if c.verb == "drop" && !c.yes && !c.confirm() {
		return errors.New("nothing was dropped; answer y, or say -y")
	}
	if c.verb == "release" {
		return c.release(cfg.Store.Dir)
	}
	b, done, err := openBoxes(cfg, c.verb == "import" || c.verb == "drop")
	if err != nil {
		return err
	}
	err = c.do(b, cfg.importLine())
	if s, ok := b.(*storeBoxes); ok && c.verb != "verify" {
		err = s.whole(err)
	}
	return errors.Join(err, done())
}

// release asks the leafd that runs: of one that does not, no file is open.
func (c *outboxCmd) release(dir string) error {
	ctl, err := dialCtl(dir)
	if err != nil {
		return fmt.Errorf("store %s: no leafd answers there: %w; if one runs, call this as root or as the user that it runs as", dir, err)
	}
	if err := ctl.release(); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "the files in %s are closed and publishers are refused; unmount the file system, check it and mount it again within 10 minutes, and leafd goes on\n", dir)
	return nil
}

func (c *outboxCmd) loadConfig() (*Config, error) {
	file := c.config
	if file == "" {
		if _, err := os.Stat(defaultConfigFile); err != nil {
			return defaultConfig(), nil
		}
		file = defaultConfigFile
	}
	return loadConfig(file)
}

// do has what an import reads in lines of up to line bytes.
func (c *outboxCmd) do(b boxes, line int) error {
	switch c.verb {
	case "ls":
		return c.ls(b)
	case "peek":
		return b.read(c.name, c.from, c.n, c.show)
	case "export":
		w := bufio.NewWriter(c.out)
		enc := json.NewEncoder(w)
		return errors.Join(b.read(c.name, c.from, 0, func(r *boxRecord) error { return enc.Encode(r) }), w.Flush())
	case "import":
		return c.imported(b.add(c.name, recordLines(c.in, line)))
	case "drop":
		to := c.to
		if c.all {
			to = 1<<64 - 1
		}
		done, err := b.drop(c.name, to)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.out, "dropped %d messages, %d bytes, of outbox %q\n", done.Messages, done.Bytes, c.name)
		return nil
	}
	return c.verify(b)
}

// imported says what an import did. One that ended early says where to go on, and one
// that cost messages is an error: whoever deletes the file after it would lose them.
func (c *outboxCmd) imported(done added, err error) error {
	cost := ""
	if len(done.Lost) > 0 {
		var n uint64
		for _, lost := range done.Lost {
			n += lost
		}
		cost = fmt.Sprintf("; meanwhile the outbox was full and lost %d messages, of these or of what it held (%s); raise its max_bytes or max_msgs, or let it drain first", n, reasons(done.Lost))
	}
	if err != nil {
		return fmt.Errorf("import into outbox %q: %w; %s%s", c.name, err, c.goOn(&done), cost)
	}
	switch {
	case cost != "":
		return fmt.Errorf("import into outbox %q: %d messages were put in, seq %d to %d%s", c.name, done.Messages, done.First, done.Last, cost)
	case done.Messages == 0:
		fmt.Fprintf(c.out, "there was no message to import into outbox %q\n", c.name)
	default:
		fmt.Fprintf(c.out, "%d messages are safe in outbox %q, seq %d to %d\n", done.Messages, c.name, done.First, done.Last)
	}
	return nil
}

// goOn is how to import the rest, and nothing twice.
func (c *outboxCmd) goOn(done *added) string {
	if done.unknown {
		return fmt.Sprintf("how many messages were put in before is not known, see what leafd outbox ls and leafd outbox peek %s show before you go on", c.name)
	}
	text, are := "no message was put in", "are safe"
	if len(done.Lost) > 0 {
		are = "were put in"
	}
	if done.Messages > 0 {
		text = fmt.Sprintf("%d messages %s, seq %d to %d; go on from line %d", done.Messages, are, done.First, done.Last, done.Line+1)
	}
	if done.Unsure > 0 {
		text += fmt.Sprintf("; another %d may be safe or not, see what leafd outbox peek %s -from %d shows before you go on", done.Unsure, c.name, done.From)
	}
	return text
}

// reasons is a list of losses.
func reasons(lost map[string]uint64) string {
	var all []string
	for _, why := range slices.Sorted(maps.Keys(lost)) {
		all = append(all, fmt.Sprintf("%s %d", why, lost[why]))
	}
	return strings.Join(all, ", ")
}

func (c *outboxCmd) ls(b boxes) error {
	all, err := b.list()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tMESSAGES\tBYTES\tOLDEST\tFIRST\tLAST\tLOST")
	for _, o := range all {
		oldest := "-"
		if o.Messages > 0 {
			oldest = o.OldestAge.Round(time.Second).String()
		}
		if o.Older {
			oldest = ">" + oldest
		}
		var lost uint64
		for _, n := range o.Lost {
			lost += n
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%d\t%d\t%d\n", o.Name, o.State, o.Messages, o.Bytes, oldest, o.First, o.Last, lost)
	}
	return w.Flush()
}

// maxShown is how many bytes of a payload peek shows.
const maxShown = 256

func (c *outboxCmd) show(r *boxRecord) error {
	at := "unknown"
	if !r.Time.IsZero() {
		at = r.Time.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	_, err := fmt.Fprintf(c.out, "%d  %s  %s  %s\n", r.Seq, at, printable(r.subject()), printable(r.Data))
	return err
}

// printable is text as it is, if a terminal may have it, and anything else in hex.
func printable(b []byte) string {
	more := ""
	if len(b) > maxShown {
		more = fmt.Sprintf("… (%d bytes)", len(b))
		for b = b[:maxShown]; len(b) > 0 && !utf8.RuneStart(b[len(b)-1]); {
			b = b[:len(b)-1] // not in the middle of a letter
		}
		b = b[:len(b)-1]
	}
	if !utf8.Valid(b) || strings.ContainsFunc(string(b), func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "0x" + hex.EncodeToString(b) + more
	}
	return string(b) + more
}

// confirm asks the person who drops messages.
func (c *outboxCmd) confirm() bool {
	what := fmt.Sprintf("messages up to seq %d", c.to)
	if c.all {
		what = "all messages"
	}
	fmt.Fprintf(c.errOut, "drop %s of outbox %q? They will never reach the hub. [y/N] ", what, c.name)
	line, _ := bufio.NewReader(c.in).ReadString('\n') // no line is no
	line = strings.ToLower(strings.TrimSpace(line))
	return line == "y" || line == "yes"
}

func (c *outboxCmd) verify(b boxes) error {
	found, err := b.verify()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%d records, %d bytes, in store.db and %d in the journal are sound\n", found.Records, found.Bytes, found.Journal)
	if found.OK() {
		return nil
	}
	problems := found.Notes
	if found.Damaged > 0 {
		problems = append(problems, fmt.Sprintf("%d records fail their checksum", found.Damaged))
	}
	if found.Missing > 0 {
		problems = append(problems, fmt.Sprintf("%d records are missing", found.Missing))
	}
	return fmt.Errorf("the store is damaged: %s; leafd goes on with what is sound, export it and replace the disk", strings.Join(problems, "; "))
}

// openBoxes asks the leafd that runs, or opens the store: to look, without changing
// anything, or to write.
func openBoxes(cfg *Config, write bool) (b boxes, done func() error, err error) {
	dir := cfg.Store.Dir
	ctl, ctlErr := dialCtl(dir)
	if ctlErr == nil {
		return ctl, func() error { return nil }, nil
	}
	if write {
		b, done, err = openToWrite(cfg)
	} else {
		b, done, err = openToLook(cfg)
	}
	switch {
	case errors.Is(err, storefwd.ErrInUse):
		err = fmt.Errorf("store %s: leafd runs, and its control socket cannot be reached: %w; call this as root or as the user that leafd runs as", dir, ctlErr)
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("store %s: there is none; -c names the configuration that says where it is", dir)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("store %s: %w; call this as root or as the user that leafd runs as", dir, err)
	case err != nil:
		err = fmt.Errorf("store %s: %w", dir, err)
	}
	return b, done, err
}

func (c *Config) stopped(name string) (string, bool) {
	for _, o := range c.Outboxes {
		if o.Name == name {
			return "stopped", true
		}
	}
	return "", false
}

func openToLook(cfg *Config) (boxes, func() error, error) {
	v, err := storefwd.OpenReadOnly(cfg.Store.Dir, storefwd.Options{Clock: newClock(cfg.Clock), JournalBytes: cfg.Store.JournalSize})
	if err != nil {
		return nil, nil, err
	}
	for _, o := range cfg.Outboxes {
		v.Lookup(logPrefix + o.Name) // gives a log its name that has left none on the disk
	}
	return &storeBoxes{archive: v, state: cfg.stopped}, v.Close, nil
}

func openToWrite(cfg *Config) (boxes, func() error, error) {
	if _, err := os.Stat(cfg.Store.Dir); err != nil {
		return nil, nil, err
	}
	own := *cfg
	if err := becomeOwner(&own.Store.Dir); err != nil {
		return nil, nil, err
	}
	s, err := storefwd.Open(own.Store.Dir, own.storeOptions(newLogger(os.Stderr)))
	if err != nil {
		return nil, nil, err
	}
	b := &storeBoxes{archive: s, store: s, logs: map[string]target{}, state: own.stopped}
	for i := range own.Outboxes {
		o := &own.Outboxes[i]
		l, err := s.Log(logPrefix+o.Name, o.retention())
		if err != nil {
			return nil, nil, errors.Join(err, s.Close())
		}
		b.logs[o.Name] = target{l, o.Subjects, own.MaxPayload}
	}
	return b, s.Close, nil
}

// becomeOwner makes root the user who owns the directory, so that no file in it
// comes to belong to root and is closed to leafd. That user may not be able to
// reach the directory by its name; it is entered first.
func becomeOwner(dir *string) error {
	info, err := os.Stat(*dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || st.Uid == 0 {
		return nil
	}
	if err := os.Chdir(*dir); err != nil {
		return err
	}
	*dir = "."
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(int(st.Gid)), syscall.Setuid(int(st.Uid))); err != nil {
		return fmt.Errorf("become its owner: %w", err)
	}
	return nil
}
