package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
)

const wakes = 64

func waitCases() []bench { return []bench{{"cancel_to_wake", cancelToWake}} }

// From the cancel until the blocked thread runs: the goroutine is locked to an OS thread of its own, as in ours. Median, as
// in ours: the mean is ruled by the few that met another program.
func cancelToWake() fixture {
	contexts := make(chan context.Context)
	woke := make(chan time.Time)
	go func() {
		runtime.LockOSThread()
		for ctx := range contexts {
			<-ctx.Done()
			woke <- time.Now()
		}
	}()
	return fixture{batch: wakes, measure: func() (float64, []extra) {
		var took [wakes]time.Duration
		for i := range took {
			ctx, cancel := context.WithCancel(context.Background())
			contexts <- ctx
			time.Sleep(200 * time.Microsecond) // until it blocks
			start := time.Now()
			cancel()
			took[i] = (<-woke).Sub(start)
		}
		slices.Sort(took[:])
		return float64(took[wakes/2]) * wakes, nil
	}}
}

// ---- bytes_per_live_ctx_*: resident memory of a million, in this process, which has run nothing else

const alive = 1000000

func residentCases() []bench {
	return []bench{
		{"bytes_per_live_ctx_cancel", resident(func(server context.Context, _ int) context.CancelFunc {
			_, cancel := context.WithCancel(server)
			return cancel
		})},
		{"bytes_per_live_ctx_timeout", resident(func(server context.Context, i int) context.CancelFunc {
			_, cancel := context.WithTimeout(server, time.Duration(60+i%3600)*time.Second)
			return cancel
		})},
	}
}

func residentBytes() float64 {
	text, err := os.ReadFile("/proc/self/statm")
	var total, pages float64
	if err == nil {
		_, err = fmt.Sscan(string(text), &total, &pages)
	}
	if err != nil {
		panic(err)
	}
	return pages * float64(os.Getpagesize())
}

// The handle that a Go program keeps is the cancel function; the slice of them is touched before the first look.
func resident(make1 func(server context.Context, i int) context.CancelFunc) func() fixture {
	return func() fixture {
		return fixture{batch: alive, measure: func() (float64, []extra) {
			server := newServer()
			cancels := make([]context.CancelFunc, alive)
			for i := range cancels {
				cancels[i] = func() {}
			}
			make1(server, 0)()
			runtime.GC()
			before := residentBytes()
			start := time.Now()
			for i := range cancels {
				cancels[i] = make1(server, i)
			}
			took := time.Since(start)
			bytes := residentBytes() - before
			for _, cancel := range cancels {
				cancel()
			}
			return float64(took), []extra{{"resident_bytes", bytes / alive}}
		}}
	}
}
