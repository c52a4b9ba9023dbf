package hw

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// watch serves the one Watcher of a worker until ctx ends.
func (w *worker) watch(ctx context.Context, d *device) {
	for ctx.Err() == nil {
		err := w.watchOnce(ctx, d)
		if ctx.Err() != nil {
			return
		}
		w.lost(d, err)
		pause := noHurry
		if !d.due.IsZero() {
			pause = time.Until(d.due)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// watchOnce opens d and publishes what it tells until it fails or ctx ends.
func (w *worker) watchOnce(ctx context.Context, d *device) error {
	if err := w.open(d); err != nil {
		return err
	}
	d.health.well()
	watcher := d.part.(Watcher)
	started := time.Now()
	err := watcher.Watch(ctx, func(r Reading) {
		if err := w.publish(d, r); err != nil {
			d.health.ill(err)
			return
		}
		w.port.Flush()
		d.health.well()
	})
	if time.Since(started) > longWait { // it did work: this is a new fault, not the old one
		d.wait = 0
	}
	if err == nil {
		err = errors.New("it stopped watching") // of interest only if ctx has not ended
	}
	return fmt.Errorf("watch %s: %w", watcher, err)
}
