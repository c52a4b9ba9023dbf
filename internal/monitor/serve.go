package monitor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConns is how many askers there may be at once. More are turned away at the
// door: an exporter and a few people are a handful.
const maxConns = 32

// Serve answers requests on ln with h until ctx ends, then gives those under way a
// second and returns nil. It closes ln. Any other end is an error.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	if log == nil {
		log = slog.Default()
	}
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // mostly strangers' faults
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(&fewConns{Listener: ln, room: make(chan struct{}, maxConns)}) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		if err := srv.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			log.Debug("monitoring closed", "err", err)
		}
	}
	<-ended
	return nil
}

// fewConns is a listener with at most cap(room) open connections.
type fewConns struct {
	net.Listener
	room chan struct{}
}

// Accept closes what there is no room for, and waits for the next.
func (l *fewConns) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.room <- struct{}{}:
			return &countedConn{Conn: nc, leave: func() { <-l.room }}, nil
		default:
			_ = nc.Close() // a stranger too many; there is nobody to tell
		}
	}
}

// countedConn gives its room back when it is first closed.
type countedConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *countedConn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
