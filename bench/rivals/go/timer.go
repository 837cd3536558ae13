package main

import (
	"context"
	"math/rand"
	"slices"
	"sync"
	"syscall"
	"time"
)

func timerCases() []bench {
	return []bench{
		{"timers_1m_arm", million(false)},
		{"timers_1m_cancel", million(true)},
		{"timer_churn_1k", churn(1000)},
		{"timer_churn_100k", churn(100000)},
		{"timer_churn_1m", churn(1000000)},
		{"expire_100k", expire},
	}
}

func million(cancelling bool) func() fixture {
	const count = 1000000
	return func() fixture {
		server := newServer()
		random := rand.New(rand.NewSource(1))
		order := random.Perm(count)
		cancels := make([]context.CancelFunc, count)
		arm := func() {
			for i := range cancels {
				_, cancels[i] = context.WithTimeout(server, randomTimeout(random, time.Second))
			}
		}
		end := func() {
			for _, i := range order {
				cancels[i]()
			}
		}
		if cancelling {
			return fixture{batch: count, prepare: arm, run: func(int) { end() }}
		}
		return fixture{batch: count, run: func(int) { arm() }, cleanup: end}
	}
}

// A timeout of 60 to 120 s: none comes due while it is measured.
func churn(count int) func() fixture {
	return func() fixture {
		server := newServer()
		random := rand.New(rand.NewSource(1))
		cancels := make([]context.CancelFunc, count)
		arm := func(i int) { _, cancels[i] = context.WithTimeout(server, randomTimeout(random, time.Minute)) }
		for i := range cancels {
			arm(i)
		}
		return fixture{run: func(n int) {
			for ; n > 0; n-- {
				i := random.Intn(count)
				cancels[i]()
				arm(i)
			}
		}}
	}
}

// ---- expire_100k: as storm.c

const (
	storm     = 100000
	stormLead = 500 * time.Millisecond
	stormSpan = 100 * time.Millisecond
	stormRest = 20 * time.Millisecond
	leadIn    = 5 * time.Millisecond
)

func processTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// armStorm returns the contexts, when each is due, and when the first is.
func armStorm(server context.Context) ([]context.Context, []time.Time, time.Time) {
	contexts, due := make([]context.Context, storm), make([]time.Time, storm)
	first := time.Now().Add(stormLead)
	for i, place := range rand.Perm(storm) {
		due[i] = first.Add(stormSpan / storm * time.Duration(place))
		contexts[i], _ = context.WithDeadline(server, due[i])
	}
	return contexts, due, first
}

// The processor time of the process while they expire, and in a second storm, with callbacks, the lateness.
func expire() fixture {
	return fixture{batch: storm, measure: func() (float64, []extra) {
		server := newServer()
		contexts, _, first := armStorm(server)
		time.Sleep(time.Until(first.Add(-leadIn)))
		start := processTime()
		time.Sleep(time.Until(first.Add(stormSpan + stormRest)))
		for _, ctx := range contexts {
			<-ctx.Done()
		}
		cpu := processTime() - start
		return float64(cpu), lateness(server)
	}}
}

func lateness(server context.Context) []extra {
	var all sync.WaitGroup
	contexts, due, _ := armStorm(server)
	late := make([]time.Duration, storm)
	all.Add(storm)
	for i, ctx := range contexts {
		context.AfterFunc(ctx, func() {
			late[i] = time.Since(due[i])
			all.Done()
		})
	}
	all.Wait()
	slices.Sort(late)
	early := 0
	for early < storm && late[early] < 0 {
		early++
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return []extra{{"late_p50_ms", ms(late[storm/2])}, {"late_p99_ms", ms(late[storm/100*99])}, {"early", float64(early)}}
}
