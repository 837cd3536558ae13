//go:build errgroup

package main

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// group_fanout_8: errgroup with a context of its own, eight tasks that do nothing, wait.
func groupCases() []bench {
	return []bench{{"group_fanout_8", underServer(0, false, func(server context.Context) {
		group, _ := errgroup.WithContext(server)
		for task := 0; task < 8; task++ {
			group.Go(func() error { return nil })
		}
		keptErr = group.Wait()
	})}}
}
