package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const wakes = 64

func waitCases() []bench { return []bench{{"cancel_to_wake", cancelToWake}} }

// A thread of its own that waits for a context, or for the bare futex if there is none.
type sleeper struct {
	contexts chan context.Context
	woke     chan time.Time
	word     uint32
}

func (s *sleeper) run() {
	runtime.LockOSThread()
	for ctx := range s.contexts {
		if ctx != nil {
			<-ctx.Done()
		} else {
			for atomic.LoadUint32(&s.word) == 0 {
				futex(&s.word, futexWait, 0)
			}
		}
		s.woke <- time.Now()
	}
}

const futexWait, futexWake = 0 | 128, 1 | 128 // private

func futex(word *uint32, operation, value uintptr) {
	syscall.Syscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(word)), operation, value, 0, 0, 0)
}

// How long the sleeper takes to run after wake.
func (s *sleeper) time(ctx context.Context, wake func()) time.Duration {
	s.contexts <- ctx
	time.Sleep(200 * time.Microsecond) // until it blocks
	start := time.Now()
	wake()
	return (<-s.woke).Sub(start)
}

// From the cancel until the blocked thread runs, and the same by the bare futex, in turn. Medians, as in ours: the mean is
// ruled by the few that met another program.
func cancelToWake() fixture {
	s := &sleeper{contexts: make(chan context.Context), woke: make(chan time.Time)}
	go s.run()
	return fixture{batch: wakes, measure: func() (float64, []extra) {
		var ours, kernel [wakes]time.Duration
		for i := range ours {
			ctx, cancel := context.WithCancel(context.Background())
			ours[i] = s.time(ctx, cancel)
			atomic.StoreUint32(&s.word, 0)
			kernel[i] = s.time(nil, func() {
				atomic.StoreUint32(&s.word, 1)
				futex(&s.word, futexWake, 1)
			})
		}
		slices.Sort(ours[:])
		slices.Sort(kernel[:])
		return float64(ours[wakes/2]) * wakes, []extra{{"kernel_ns", float64(kernel[wakes/2])}}
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
