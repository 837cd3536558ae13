package main

import (
	"context"
	"fmt"
	"math/rand"
	"time"
)

// What the compiler must not leave out ends up here.
var (
	keptErr   error
	keptValue any
)

func cases() []bench {
	all := []bench{
		{"err_poll_live", poll(1, false, false)},
		{"err_poll_depth16", poll(16, false, false)},
		{"err_poll_canceled", poll(1, true, false)},
		{"err_poll_live_2threads", poll(1, false, true)},
		{"err_poll_depth16_2threads", poll(16, false, true)},
		{"err_poll_canceled_2threads", poll(1, true, true)},
		{"derive_cancel", underServer(0, false, deriveCancel)},
		{"derive_cancel_100k_siblings", underServer(100000, false, deriveCancel)},
		{"derive_cancel_2threads", underServer(0, true, deriveCancel)},
		{"derive_background", underServer(0, false, func(context.Context) { deriveCancel(context.Background()) })},
		{"derive_timeout", underServer(0, false, deriveTimeout)},
		{"derive_timeout_2threads", underServer(0, true, deriveTimeout)},
		{"derive_value", underServer(0, false, deriveValues(1))},
		{"derive_value_8", underServer(0, false, deriveValues(8))},
	}
	for _, depth := range []int{1, 8, 64} {
		all = append(all, bench{fmt.Sprintf("value_hit_depth%d", depth), lookup(depth, false, true)})
	}
	for _, depth := range []int{8, 64} {
		all = append(all, bench{fmt.Sprintf("value_miss_depth%d", depth), lookup(depth, false, false)})
	}
	all = append(all, bench{"value_hit_depth8_mixed", lookup(8, true, true)})
	all = append(all,
		bench{"cancel_fanout_10", tree(100, 10, 1000)},
		bench{"cancel_fanout_1000", tree(1, 1000, 1000)},
		bench{"cancel_fanout_100000", tree(1, 100000, 100000)},
		bench{"cancel_chain_1000", tree(1, 1, 1000)},
		bench{"cancel_chain_1000000", tree(1, 1, 1000000)},
		bench{"cancel_tree_10x10x10x10", tree(1, 10, 11110)},
		bench{"after_register_stop", underServer(0, false, afterRegisterStop)},
		bench{"request_lifecycle", underServer(0, false, serve)},
		bench{"request_lifecycle_2threads", underServer(0, true, serve)},
	)
	all = append(all, waitCases()...)
	all = append(all, timerCases()...)
	all = append(all, residentCases()...)
	return append(all, groupCases()...)
}

// A live context under background, as a server has one. Here and below, who discards a cancel function means a context that
// lives as long as the process.
func newServer() context.Context {
	ctx, _ := context.WithCancel(context.Background())
	return ctx
}

func poll(depth int, canceled, pair bool) func() fixture {
	return func() fixture {
		root, cancel := context.WithCancel(context.Background())
		last := root
		for i := 1; i < depth; i++ {
			last, _ = context.WithCancel(last)
		}
		if canceled {
			cancel()
		}
		return fixture{pair: pair, run: func(n int) {
			var err error
			for i := 0; i < n; i++ {
				err = last.Err()
			}
			if !pair {
				keptErr = err
			}
		}}
	}
}

// One operation under one live parent that has so many other children.
func underServer(siblings int, pair bool, operation func(server context.Context)) func() fixture {
	return func() fixture {
		server := newServer()
		for i := 0; i < siblings; i++ {
			_, _ = context.WithCancel(server)
		}
		return fixture{pair: pair, run: func(n int) {
			for i := 0; i < n; i++ {
				operation(server)
			}
		}}
	}
}

func deriveCancel(parent context.Context) {
	_, cancel := context.WithCancel(parent)
	cancel()
}

func deriveTimeout(parent context.Context) {
	_, cancel := context.WithTimeout(parent, time.Hour)
	cancel()
}

// A type per key is Go's advice; the numbered ones stand for eight packages.
type key int

func deriveValues(count key) func(context.Context) {
	return func(server context.Context) {
		ctx := server
		for k := key(0); k < count; k++ {
			ctx = context.WithValue(ctx, k, server)
		}
		keep(ctx)
	}
}

//go:noinline
func keep(context.Context) {}

func lookup(values int, mixed, hit bool) func() fixture {
	return func() fixture {
		keys := []any{key(0)} // made once, as a program's constants are
		if !hit {
			keys = []any{key(100), key(101), key(102), key(103), key(104), key(105), key(106), key(107)}
		}
		ctx := context.WithValue(context.Background(), key(0), "the first")
		for k := key(1); k < key(values); k++ {
			if mixed {
				ctx, _ = context.WithCancel(ctx)
				ctx, _ = context.WithTimeout(ctx, time.Hour-time.Duration(k)*time.Second)
			}
			ctx = context.WithValue(ctx, k, "another")
		}
		mask := len(keys) - 1
		return fixture{run: func(n int) {
			for i := 0; i < n; i++ {
				keptValue = ctx.Value(keys[i&mask])
			}
		}}
	}
}

// roots families of nodes numbered breadth first; the roots are cancelled, one operation is one node below.
func tree(roots, width, below int) func() fixture {
	return func() fixture {
		contexts := make([]context.Context, roots+below)
		cancels := make([]context.CancelFunc, roots+below)
		return fixture{
			batch: below,
			prepare: func() {
				for i := range contexts {
					parent := context.Background()
					if i >= roots {
						parent = contexts[(i-roots)/width]
					}
					contexts[i], cancels[i] = context.WithCancel(parent)
				}
			},
			run: func(int) {
				for _, cancel := range cancels[:roots] {
					cancel()
				}
			},
			cleanup: func() {
				for i := len(cancels) - 1; i >= 0; i-- {
					cancels[i]()
				}
			},
		}
	}
}

func afterRegisterStop(server context.Context) {
	stop := context.AfterFunc(server, func() {})
	stop()
}

// ---- request_lifecycle

type traceKey struct{}
type userKey struct{}
type tenantKey struct{}

func callUpstream(call context.Context) {
	keep2(call.Value(traceKey{}), call.Err())
}

//go:noinline
func keep2(any, error) {}

func serve(server context.Context) {
	request, cancelRequest := context.WithCancel(server)
	defer cancelRequest()
	limited, cancelLimited := context.WithTimeout(request, 30*time.Second)
	defer cancelLimited()
	traced := context.WithValue(limited, traceKey{}, "4bf92f3577b34da6a3ce929d0e0e4736")
	known := context.WithValue(traced, userKey{}, "ann")
	placed := context.WithValue(known, tenantKey{}, uint32(7))
	first, cancelFirst := context.WithCancel(placed)
	defer cancelFirst()
	second, cancelSecond := context.WithCancel(placed)
	defer cancelSecond()
	callUpstream(first)
	callUpstream(second)
}

// Uniform over [from, from + 60) seconds, to the microsecond.
func randomTimeout(random *rand.Rand, from time.Duration) time.Duration {
	return from + time.Duration(random.Intn(60000000))*time.Microsecond
}
