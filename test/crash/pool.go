package main

import (
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// job is one directory to be made and checked.
type job struct {
	make   func(dir string, scratch []byte) ([]byte, error) // makes dir what it is to be, whatever is there
	expect *expect
	again  bool // see request
	show   func(*finding)
	tries  int // opens it may take, 0 is 1
}

// pool checks jobs in child processes and adds up what they find.
type pool struct {
	jobs  chan job
	wait  sync.WaitGroup
	begin time.Time

	mu    sync.Mutex
	tally tally // guarded by mu
}

// checkPatience is how long a child may take for one store.
const checkPatience = 20 * time.Second

// newPool starts n workers, which put what they make below dir. Violations leave a
// reproduction below repro.
func newPool(n int, dir, repro string) *pool {
	p := &pool{jobs: make(chan job, 4*n), begin: time.Now()}
	p.tally.repro = repro
	for i := range n {
		w := &worker{pool: p, dir: filepath.Join(dir, fmt.Sprintf("w%d-%d", os.Getpid(), i), "s")}
		p.wait.Go(w.run)
	}
	return p
}

func workers() int { return runtime.GOMAXPROCS(0) + 1 }

// finish waits for all jobs and returns what they came to.
func (p *pool) finish() tally {
	close(p.jobs)
	p.wait.Wait()
	p.tally.Took = time.Since(p.begin)
	return p.tally
}

// worker makes the directories of one checker. Owned by its goroutine.
type worker struct {
	pool    *pool
	dir     string
	scratch []byte

	cmd    *exec.Cmd // nil: none runs
	enc    *gob.Encoder
	dec    *gob.Decoder
	in     io.Closer
	stderr *strings.Builder
}

func (w *worker) run() {
	defer os.RemoveAll(filepath.Dir(w.dir))
	defer w.stop()
	for j := range w.pool.jobs {
		v, err := w.check(j)
		if err != nil {
			v = verdict{Unopened: 1, Detail: "the tester failed: " + err.Error()}
		}
		w.pool.mu.Lock()
		save := w.pool.tally.add(j.expect, v)
		w.pool.mu.Unlock()
		if save != "" {
			if err := saveRepro(save, j, v); err != nil {
				fmt.Fprintln(os.Stderr, "crash: no reproduction:", err)
			}
		}
	}
}

func (w *worker) check(j job) (v verdict, err error) {
	if err = os.MkdirAll(filepath.Dir(w.dir), 0o700); err != nil {
		return v, err
	}
	if w.scratch, err = j.make(w.dir, w.scratch); err != nil {
		return v, err
	}
	var f *finding
	for try := 0; try < max(1, j.tries); try++ {
		if f = w.ask(request{w.dir, j.again}); f.Err == "" {
			break
		}
	}
	if j.show != nil {
		j.show(f)
	}
	return judge(j.expect, f), nil
}

// ask has the child look at a store. A child that dies of it is a finding.
func (w *worker) ask(r request) *finding {
	if w.cmd == nil {
		if err := w.start(); err != nil {
			return &finding{Err: "start a checker: " + err.Error()}
		}
	}
	slow := time.AfterFunc(checkPatience, func() { _ = w.cmd.Process.Signal(syscall.SIGQUIT) })
	f := &finding{}
	err := w.enc.Encode(r)
	if err == nil {
		err = w.dec.Decode(f)
	}
	if late := !slow.Stop(); err != nil {
		w.stop()
		f.Err = fmt.Sprintf("the process died (%v): %.2000s", w.cmd.ProcessState, w.stderr)
		if late {
			f.Err = fmt.Sprintf("no answer for %v: %.4000s", checkPatience, w.stderr)
		}
		w.cmd = nil
	}
	return f
}

func (w *worker) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), checkerEnv+"=1", "GOGC=400")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.stderr = &strings.Builder{}
	cmd.Stderr = w.stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		return fmt.Errorf("%w, %w", err1, err2)
	}
	w.cmd, w.in, w.enc, w.dec = cmd, in, gob.NewEncoder(in), gob.NewDecoder(out)
	if err := cmd.Start(); err != nil {
		w.cmd = nil
		return err
	}
	return nil
}

func (w *worker) stop() {
	if w.cmd != nil {
		w.in.Close()
		_ = w.cmd.Wait() // its state is in ProcessState
	}
}

// tally is what came of the faults of one part. Guarded by its pool's mu until finish.
type tally struct {
	Name    string
	Faults  int // states, kills or mutations
	Checked int // acknowledged messages looked for, over all faults
	verdict
	Control   bool // syncs did nothing: it must lose something, and open all the same
	BadFaults int  // of Faults, those with a violation
	LostIn    int  // of Faults, those that lost something
	Took      time.Duration

	repro string // where reproductions go
	saved int
}

const maxRepros = 10 // of one part

// add counts one fault. It returns where its reproduction is to be put, if it is.
func (t *tally) add(e *expect, v verdict) (save string) {
	t.Faults++
	t.Checked += len(e.Must)
	if t.Control && v.Unopened == 0 {
		v.Detail = "" // what it lost, it had to
	}
	t.sum(v)
	if v.Lost > 0 {
		t.LostIn++
	}
	if bad := v.bad() && !t.Control || v.Unopened > 0; !bad {
		return ""
	}
	t.BadFaults++
	if t.repro == "" || t.saved >= maxRepros {
		return ""
	}
	t.saved++
	return fmt.Sprintf("%s-%d", t.repro, t.saved)
}

func (v *verdict) sum(o verdict) {
	v.Lost += o.Lost
	v.Declared += o.Declared
	v.Tail += o.Tail
	v.Duplicated += o.Duplicated
	v.Disorder += o.Disorder
	v.Wrong += o.Wrong
	v.Unopened += o.Unopened
	v.Alarms += o.Alarms
	if v.Detail == "" {
		v.Detail = o.Detail
	}
}

// A reproduction is a directory with the store as it was before it was opened, and
// what it was to hold.
type repro struct {
	Expect  *expect
	Verdict verdict
	Tries   int
}

func saveRepro(dir string, j job, v verdict) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := j.make(filepath.Join(dir, "store"), nil); err != nil {
		return err
	}
	b, err := json.MarshalIndent(repro{j.expect, v, j.tries}, "", " ")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "crash: %s\n  %s\n  again: go run ./test/crash -repro %s\n", j.expect.What, v.Detail, dir)
	return os.WriteFile(filepath.Join(dir, "case.json"), b, 0o644)
}

// reproduce checks a saved case again and prints what comes of it.
func reproduce(dir string) (ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "case.json"))
	if err != nil {
		return false, err
	}
	var r repro
	if err := json.Unmarshal(b, &r); err != nil {
		return false, err
	}
	p := newPool(1, ramDir(), "")
	p.jobs <- job{
		make: func(to string, _ []byte) ([]byte, error) {
			if _, err := os.Stat(filepath.Join(dir, "store")); err != nil {
				return nil, nil //nolint:nilerr // the state is that there is no directory
			}
			return nil, errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(filepath.Join(dir, "store"))))
		},
		expect: r.Expect, tries: r.Tries, again: true,
		show: func(f *finding) { fmt.Printf("%d records; health: %q\n", len(f.Records), f.Health) },
	}
	t := p.finish()
	fmt.Printf("%s\nthen: %s\nnow:  %s\n", r.Expect.What, r.Verdict.Detail, t.Detail)
	return !t.bad(), nil
}
