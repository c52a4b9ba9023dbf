package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/leafd/leafd/storefwd"
)

// The control socket is "ctl" in the store's directory, mode 0600: HTTP with the
// methods of boxes, for the command line of the same leafd and nobody else. Records
// travel as lines of JSON, as in an export.
//
//	GET    /outboxes               list
//	GET    /outboxes/{name}        read, ?from= and ?n=
//	POST   /outboxes/{name}        add
//	DELETE /outboxes/{name}        drop, ?to=
//	POST   /verify                 verify
//	POST   /release                close all files, this socket, too, until the store is back

// listenCtl makes the socket. Whoever has the store's lock owns the directory, so
// one that is there is left over.
func listenCtl(dir string) (net.Listener, error) {
	path, done, err := ctlPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // the path may be one through /proc, which ends with done
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// ctlPath is a name of the socket that fits the 107 bytes a socket's name may have:
// that of a directory deep down goes through /proc.
func ctlPath(dir string) (path string, done func(), err error) {
	if path = filepath.Join(dir, "ctl"); len(path) <= 100 {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/ctl", d.Fd()), func() { d.Close() }, nil
}

// serveCtl answers on ln until ctx ends, and then takes the socket out of its directory.
// While the store is released there is no socket.
func serveCtl(ctx context.Context, ln net.Listener, cfg *Config, b *storeBoxes, log *slog.Logger) error {
	defer os.Remove(filepath.Join(cfg.Store.Dir, "ctl"))
	for {
		back, err := serveCtlOnce(ctx, ln, cfg, b, log)
		if back == nil {
			return err
		}
		select {
		case <-back:
		case <-ctx.Done():
			return nil
		}
		if ln, err = listenCtl(cfg.Store.Dir); err != nil {
			log.Warn("leafd outbox will not work until leafd is restarted", "err", err)
			return nil
		}
	}
}

// serveCtlOnce serves until ctx ends, or until the store is released: then it returns what
// is closed when it is back.
func serveCtlOnce(ctx context.Context, ln net.Listener, cfg *Config, b *storeBoxes, log *slog.Logger) (back <-chan struct{}, err error) {
	srv := &http.Server{Handler: ctlHandler(b, b.release, cfg.importLine()), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return nil, fmt.Errorf("control socket: %w", err)
	case <-ctx.Done():
	case back = <-b.released:
		soon, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_ = srv.Shutdown(soon) // lets the answer out; whoever else is still asking is cut off
	}
	_ = srv.Close() // nobody depends on what it says
	<-served
	return back, nil
}

// ctlHandler takes records in lines of up to line bytes.
func ctlHandler(b boxes, release func() error, line int) http.Handler {
	mux := http.NewServeMux()
	answer := func(pattern string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := fn(r)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				v = ctlError{err.Error()}
			}
			json.NewEncoder(w).Encode(v) // to one who has hung up if it fails
		})
	}
	answer("GET /outboxes", func(*http.Request) (any, error) { return b.list() })
	answer("POST /verify", func(*http.Request) (any, error) { return b.verify() })
	answer("POST /release", func(*http.Request) (any, error) { return struct{}{}, release() })
	answer("DELETE /outboxes/{name}", func(r *http.Request) (any, error) {
		to, err := queryUint(r, "to")
		if err != nil {
			return nil, err
		}
		return b.drop(r.PathValue("name"), to)
	})
	answer("POST /outboxes/{name}", func(r *http.Request) (any, error) {
		done, err := b.add(r.PathValue("name"), recordLines(r.Body, line))
		a := ctlAdded{added: done}
		if err != nil {
			a.Error = err.Error()
		}
		return &a, nil
	})
	mux.HandleFunc("GET /outboxes/{name}", func(w http.ResponseWriter, r *http.Request) { ctlRead(w, r, b) })
	return mux
}

// errorTrailer is where an error is told, escaped, once records are on their way.
const errorTrailer = "Leafd-Error"

// ctlRead streams records.
func ctlRead(w http.ResponseWriter, r *http.Request, b boxes) {
	from, err1 := queryUint(r, "from")
	n, err2 := queryUint(r, "n")
	err, sent := errors.Join(err1, err2), false
	if err == nil {
		enc := json.NewEncoder(w)
		err = b.read(r.PathValue("name"), from, int(min(n, 1<<30)), func(rec *boxRecord) error {
			sent = true
			return enc.Encode(rec)
		})
	}
	switch {
	case err == nil:
	case sent:
		w.Header().Set(http.TrailerPrefix+errorTrailer, url.QueryEscape(err.Error()))
	default:
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(ctlError{err.Error()})
	}
}

// ctlAdded is what an import did, and what ended it, if that was not its end.
type ctlAdded struct {
	added
	Error string `json:"error,omitempty"`
}

type ctlError struct {
	Error string `json:"error"`
}

func queryUint(r *http.Request, key string) (uint64, error) {
	v := r.URL.Query().Get(key)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, &boxError{fmt.Sprintf("%s=%q is not a number", key, v)}
	}
	return n, nil
}

// ctlBoxes are those of a running leafd, which listens for its store.
type ctlBoxes struct{ dir string }

// dialCtl looks for the leafd that runs on the store in dir.
func dialCtl(dir string) (*ctlBoxes, error) {
	b := &ctlBoxes{dir}
	nc, err := b.dial()
	if err != nil {
		return nil, err
	}
	return b, nc.Close()
}

func (b *ctlBoxes) dial() (net.Conn, error) {
	path, done, err := ctlPath(b.dir)
	if err != nil {
		return nil, err
	}
	defer done()
	return net.Dial("unix", path)
}

// ctlCall is one request, on a connection of its own.
type ctlCall struct {
	io.ReadCloser // the answer's body
	nc            net.Conn
	req           *http.Request
	sent          chan struct{} // closed when the request's body is not read any more
	err           error         // static once sent is closed; of the request
}

// send writes the request. One that breaks off half-way is ended: the server would
// wait for the rest, and may have said why before.
func (c *ctlCall) send() {
	defer close(c.sent)
	if c.err = c.req.Write(c.nc); c.err != nil {
		if half, ok := c.nc.(*net.UnixConn); ok {
			half.CloseWrite()
		}
	}
}

// Close ends the call, and returns when nothing of it goes on.
func (c *ctlCall) Close() error {
	err := c.nc.Close()
	if c.req.Body != nil {
		err = errors.Join(err, c.req.Body.Close())
	}
	<-c.sent
	return err
}

// roundTrip returns the answer, which may come while the request is still being sent; its
// body closes the connection. It does without http.Client, whose transport is made for the
// Internet and is 0.3 MB of the program.
func (b *ctlBoxes) roundTrip(req *http.Request) (*http.Response, error) {
	nc, err := b.dial()
	if err != nil {
		return nil, err
	}
	req.Close = true
	c := &ctlCall{nc: nc, req: req, sent: make(chan struct{})}
	go c.send()
	res, err := http.ReadResponse(bufio.NewReader(nc), req)
	if err != nil {
		c.Close()
		return nil, cmp.Or(c.err, err)
	}
	c.ReadCloser, res.Body = res.Body, c
	return res, nil
}

func (b *ctlBoxes) do(method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "leafd", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequest(method, u.String(), body)
	if err != nil {
		return nil, err
	}
	res, err := b.roundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("the running leafd does not answer: %w", err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	var e ctlError
	if err := json.NewDecoder(res.Body).Decode(&e); err != nil || e.Error == "" {
		return nil, fmt.Errorf("the running leafd answers %s", res.Status)
	}
	return nil, &boxError{e.Error}
}

func (b *ctlBoxes) ask(method, path string, query url.Values, body io.Reader, v any) error {
	res, err := b.do(method, path, query, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return json.NewDecoder(res.Body).Decode(v)
}

func (b *ctlBoxes) list() (all []boxStats, err error) {
	err = b.ask("GET", "/outboxes", nil, nil, &all)
	return all, err
}

func (b *ctlBoxes) read(name string, from uint64, n int, fn func(*boxRecord) error) error {
	q := url.Values{"from": {strconv.FormatUint(from, 10)}, "n": {strconv.Itoa(n)}}
	res, err := b.do("GET", "/outboxes/"+name, q, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for next := recordLines(res.Body, maxLine); ; {
		r, err := next()
		if errors.Is(err, io.EOF) {
			return toldBehind(res)
		}
		if err == nil {
			err = fn(r)
		}
		if err != nil {
			return err
		}
	}
}

// toldBehind is the error that stands behind an answer that was read to its end.
func toldBehind(res *http.Response) error {
	text, err := url.QueryUnescape(res.Trailer.Get(errorTrailer))
	if err != nil || text == "" {
		return err
	}
	return &boxError{text}
}

// lineWriter writes records in the lines that they are from, so that the other side
// counts lines as the file does.
type lineWriter struct {
	w     io.Writer
	lines int
}

func (w *lineWriter) write(r *boxRecord) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	for w.lines++; w.lines < r.line; w.lines++ { // an empty one
		if _, err := io.WriteString(w.w, "\n"); err != nil {
			return err
		}
	}
	_, err = w.w.Write(append(text, '\n'))
	return err
}

func (b *ctlBoxes) add(name string, next func() (*boxRecord, error)) (_ added, err error) {
	r, w := io.Pipe()
	input := make(chan error, 1) // what was wrong with it
	go func() {
		out := &lineWriter{w: w}
		for {
			rec, err := next()
			if err == nil {
				if err = out.write(rec); err != nil { // nobody reads any more
					input <- nil
					return
				}
				continue
			}
			w.CloseWithError(err) // io.EOF is the end, anything else breaks the request off
			if errors.Is(err, io.EOF) {
				err = nil
			}
			input <- err
			return
		}
	}()
	var a ctlAdded
	if err = b.ask("POST", "/outboxes/"+name, nil, r, &a); err != nil {
		a.unknown = true
	} else if a.Error != "" {
		err = &boxError{a.Error}
	}
	r.Close()
	if bad := <-input; bad != nil {
		err = bad
	}
	return a.added, err
}

func (b *ctlBoxes) drop(name string, to uint64) (done dropped, err error) {
	err = b.ask("DELETE", "/outboxes/"+name, url.Values{"to": {strconv.FormatUint(to, 10)}}, nil, &done)
	return done, err
}

func (b *ctlBoxes) verify() (c storefwd.Check, err error) {
	err = b.ask("POST", "/verify", nil, nil, &c)
	return c, err
}

func (b *ctlBoxes) release() error { return b.ask("POST", "/release", nil, nil, &struct{}{}) }
