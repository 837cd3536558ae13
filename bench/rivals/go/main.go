// The rival "go": the standard library's context, the original. The protocol is that of ../main.c:
//
//	--about | --list | --case NAME [--min-time SECONDS]
//
// The runtime's own threads are the idle second thread, and GOMAXPROCS is what the runtime chooses. Allocations are those
// of runtime.MemStats, so they include what other goroutines of the runtime allocate meanwhile (next to nothing).
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A figure that is not per operation.
type extra struct {
	name  string
	value float64
}

// One case, opened: run does n operations; with batch, exactly that many, and prepare and cleanup around each are not timed.
type fixture struct {
	run     func(n int)
	pair    bool // run on two goroutines at once
	batch   int
	prepare func()
	cleanup func()
	// measure takes its own time, for one batch: nanoseconds in all, and further figures.
	measure func() (float64, []extra)
}

type bench struct {
	name string
	open func() fixture
}

type sample struct {
	ns            float64 // mean of what each goroutine saw
	ops           int     // of each goroutine
	allocs, bytes uint64
	extras        []extra
}

const name = "go"
const blind = "no event loops, no descriptors; cancel_to_wake wakes an OS thread"

// Both meet, spinning, before they start.
func runPair(f fixture, n int) float64 {
	var met atomic.Int32
	var took [2]time.Duration
	var both sync.WaitGroup
	for i := range took {
		both.Add(1)
		go func(took *time.Duration) {
			defer both.Done()
			met.Add(1)
			for met.Load() < 2 {
			}
			start := time.Now()
			f.run(n)
			*took = time.Since(start)
		}(&took[i])
	}
	both.Wait()
	return float64(took[0]+took[1]) / 2
}

func block(f fixture, n int) sample {
	if f.prepare != nil {
		f.prepare()
	}
	s := sample{ops: n}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	switch {
	case f.measure != nil:
		s.ns, s.extras = f.measure()
	case f.pair:
		s.ns = runPair(f, n)
	default:
		start := time.Now()
		f.run(n)
		s.ns = float64(time.Since(start))
	}
	runtime.ReadMemStats(&after)
	s.allocs, s.bytes = after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc
	if f.cleanup != nil {
		f.cleanup()
	}
	return s
}

// Batches until they took so long together; those that take their own time, once.
func runBatches(f fixture, minNs float64) sample {
	sum := block(f, f.batch)
	for sum.ns < minNs && f.measure == nil {
		s := block(f, f.batch)
		sum.ns += s.ns
		sum.ops += s.ops
		sum.allocs += s.allocs
		sum.bytes += s.bytes
	}
	return sum
}

// One block of so many operations; how many that is, shorter blocks tell.
func runBlock(f fixture, minNs float64) sample {
	for n := 64; ; {
		s := block(f, n)
		if s.ns >= minNs || n >= 1e9 {
			return s
		}
		wanted := 10.0
		if s.ns > minNs/100 {
			wanted = max(1.2*minNs/s.ns, 1.1)
		}
		n = int(float64(n)*wanted) + 8
	}
}

func run(b bench, minNs float64) {
	f := b.open()
	var s sample
	if f.batch > 0 {
		if f.measure == nil {
			block(f, f.batch) // warm
		}
		s = runBatches(f, minNs)
	} else {
		block(f, 4096)
		s = runBlock(f, minNs)
	}
	all := float64(s.ops)
	if f.pair {
		all *= 2
	}
	fmt.Printf("%s\t%s\t%.6g\t%.6g\t%.6g", name, b.name, s.ns/float64(s.ops), float64(s.allocs)/all, float64(s.bytes)/all)
	for _, e := range s.extras {
		fmt.Printf("\t%s=%.6g", e.name, e.value)
	}
	fmt.Println()
}

func fail(text string) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", name, text)
	os.Exit(2)
}

func main() {
	about := flag.Bool("about", false, "print name, version, what it is blind to")
	list := flag.Bool("list", false, "print the cases")
	wanted := flag.String("case", "", "the case to run")
	seconds := flag.Float64("min-time", 0.1, "for so many seconds")
	flag.Parse()
	if flag.NArg() > 0 || *seconds <= 0 {
		fail("unknown argument, or no time to run")
	}
	if *about {
		fmt.Printf("%s\t%s\t%s\n", name, runtime.Version(), blind)
		return
	}
	for _, b := range cases() {
		if *list {
			fmt.Println(b.name)
		} else if b.name == *wanted {
			run(b, *seconds*1e9)
			return
		}
	}
	if !*list {
		fail("no such case; --list names them")
	}
}
