//go:build !errgroup

package main

// golang.org/x/sync is not installed (golang-golang-x-sync-dev).
func groupCases() []bench { return nil }
