// Loads a server of etcd's API with etcd's own client, and prints what several servers made of the same load.
//
//	etcdbench -endpoint http://127.0.0.1:2379 -pid 123 -seconds 5 -json NAME.json   measures one
//	etcdbench -table FIRST.json OTHER.json...                                     puts the first beside the others
//	etcdbench -endpoint ... -pid 123 -churn 10000000 -dir DATA -csv OUT.csv       what it holds after ever more writes
//
// A measure is a closed loop: each client sends its next request when the one before is answered.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What one load made of one server.
type figure struct {
	PerSecond float64 `json:"per_second"`
	P50ms     float64 `json:"p50_ms"`
	P99ms     float64 `json:"p99_ms"`
	// Processor time of the server, microseconds a request.
	CPUus  float64 `json:"cpu_us"`
	RSSMiB float64 `json:"rss_mib"`
}

type figures map[string]figure

func measure(endpoint, pid, only string, length time.Duration) (figures, error) {
	found := figures{}
	wanted, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	pool, err := dial(endpoint)
	if err != nil {
		return nil, err
	}
	defer pool.close()
	for _, load := range loads() {
		if !wanted.MatchString(load.name) {
			continue
		}
		before := cpu(pid)
		done, err := load.run(pool, length)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", load.name, err)
			continue
		}
		figure := done.figure()
		figure.CPUus = (cpu(pid) - before) * 1e6 / float64(max(len(done.took), 1))
		figure.RSSMiB = resident(pid)
		found[load.name] = figure
		fmt.Fprintf(os.Stderr, "%-36s %8.0f/s  p50 %8.2f  p99 %8.2f ms  cpu %6.0f us  rss %5.0f MiB\n",
			load.name, figure.PerSecond, figure.P50ms, figure.P99ms, figure.CPUus, figure.RSSMiB)
	}
	return found, nil
}

func read(path string) (figures, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found figures
	return found, json.Unmarshal(data, &found)
}

// Requests a second, p50/p99 and processor time; in brackets how often the first is better.
func table(paths []string) error {
	var all []figures
	fmt.Printf("| %-34s |", "")
	for _, path := range paths {
		found, err := read(path)
		if err != nil {
			return err
		}
		all = append(all, found)
		fmt.Printf(" %s |", strings.TrimSuffix(filepath.Base(path), ".json"))
	}
	fmt.Printf("\n|---|%s\n", strings.Repeat("---|", len(all)))
	for _, load := range loads() {
		first, ok := all[0][load.name]
		if !ok {
			continue
		}
		fmt.Printf("| %-34s |", load.name)
		for at, found := range all {
			figure, ok := found[load.name]
			switch {
			case !ok:
				fmt.Printf(" not offered |")
			case at == 0:
				fmt.Printf(" %.0f/s, %.2f / %.2f ms, %.0f us, %.0f MiB |", figure.PerSecond, figure.P50ms, figure.P99ms, figure.CPUus, figure.RSSMiB)
			default:
				fmt.Printf(" %.0f/s (%.1fx), %.2f / %.2f ms (%.2fx), %.0f us (%.2fx), %.0f MiB |", figure.PerSecond, first.PerSecond/figure.PerSecond,
					figure.P50ms, figure.P99ms, first.P99ms/figure.P99ms, figure.CPUus, first.CPUus/figure.CPUus, figure.RSSMiB)
			}
		}
		fmt.Println()
	}
	return nil
}

func main() {
	endpoint := flag.String("endpoint", "", "URL of the server to measure")
	pid := flag.String("pid", "self", "its process")
	seconds := flag.Float64("seconds", 5, "length of each load")
	only := flag.String("only", "", "loads whose names match this")
	out := flag.String("json", "", "file for the figures")
	show := flag.Bool("table", false, "show figures of files instead")
	writes := flag.Int64("churn", 0, "write so often to the same keys instead")
	dir := flag.String("dir", "", "the server's data")
	csv := flag.String("csv", "churn.csv", "file for the curve")
	flag.Parse()
	var err error
	switch {
	case *show:
		err = table(flag.Args())
	case *writes > 0:
		err = churn(*endpoint, *pid, *dir, *csv, *writes)
	default:
		err = run(*endpoint, *pid, *only, *out, time.Duration(*seconds*float64(time.Second)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcdbench:", err)
		os.Exit(1)
	}
}

func run(endpoint, pid, only, out string, length time.Duration) error {
	found, err := measure(endpoint, pid, only, length)
	if err != nil || out == "" {
		return err
	}
	data, err := json.MarshalIndent(found, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(data, '\n'), 0o644)
}

// Latencies of all requests of a load.
type result struct {
	took   []time.Duration
	length time.Duration
}

func (r result) figure() figure {
	slices.Sort(r.took)
	at := func(percent int) float64 {
		if len(r.took) == 0 {
			return 0
		}
		return float64(r.took[min(len(r.took)*percent/100, len(r.took)-1)].Microseconds()) / 1000
	}
	return figure{PerSecond: float64(len(r.took)) / r.length.Seconds(), P50ms: at(50), P99ms: at(99)}
}
