package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// How often history is compacted, and how old it is then.
	compactEvery = 5 * time.Second
	// Points of the curve.
	samples = 200
	// How much larger the last quarter of a curve may be than its second, when nothing grows without end.
	slack = 1.3
)

// What a server holds after so many writes.
type sample struct {
	writes         int64
	seconds        float64
	rss, disk, log float64
}

// Writes to 10,000 keys again and again, with 64 clients and history compacted, and says what the server holds meanwhile:
// a line of CSV for each two hundredth, and an error if the end of the curve is not about where its middle was.
func churn(endpoint, pid, dir, out string, writes int64) error {
	all, err := dial(endpoint)
	if err != nil {
		return err
	}
	defer all.close()
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewWriter(file)
	defer lines.Flush()
	fmt.Fprintln(lines, "writes,seconds,rss_mib,disk_mib,write_ahead_logs_mib")

	var begun, revision = time.Now(), atomic.Int64{}
	stop := make(chan struct{})
	var compacting sync.WaitGroup
	compacting.Go(func() { compact(all, &revision, stop) })
	var curve []sample
	for number := range int64(samples) {
		if err := write(all, writes/samples, number, &revision); err != nil {
			return err
		}
		disk, log := sizes(dir)
		now := sample{(number + 1) * writes / samples, time.Since(begun).Seconds(), resident(pid), disk, log}
		curve = append(curve, now)
		fmt.Fprintf(lines, "%d,%.1f,%.1f,%.1f,%.1f\n", now.writes, now.seconds, now.rss, now.disk, now.log)
		if number%20 == 19 {
			fmt.Printf("%9d writes  %6.0f s  %6.1f MiB resident  %7.1f MiB on disk, of it %6.1f write-ahead logs\n", now.writes, now.seconds, now.rss, now.disk, now.log)
		}
	}
	close(stop)
	compacting.Wait()
	return bounded(curve)
}

func write(all pool, writes, seed int64, revision *atomic.Int64) error {
	const clients = 64
	failed := make([]error, clients)
	var left atomic.Int64
	left.Store(writes)
	var done sync.WaitGroup
	for number := range clients {
		done.Go(func() {
			random := rand.New(rand.NewSource(seed<<8 + int64(number)))
			text := value(object, random)
			for left.Add(-1) >= 0 {
				put, err := all[number].Put(ctx, key(random.Intn(keys)), text)
				if err != nil {
					failed[number] = err
					return
				}
				revision.Store(put.Header.Revision)
			}
		})
	}
	done.Wait()
	return first(failed)
}

func compact(all pool, revision *atomic.Int64, stop chan struct{}) {
	old := int64(0)
	for {
		select {
		case <-stop:
			return
		case <-time.After(compactEvery):
			if old != 0 {
				if _, err := all[0].Compact(ctx, old); err != nil {
					fmt.Fprintln(os.Stderr, "compacting:", err)
				}
			}
			old = revision.Load()
		}
	}
}

// MiB of all files in a directory, and of those that are write-ahead logs.
func sizes(dir string) (disk, log float64) {
	filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			mib := float64(info.Size()) / (1 << 20)
			disk += mib
			if strings.HasSuffix(path, "-wal") {
				log += mib
			}
		}
		return nil
	})
	return disk, log
}

func bounded(curve []sample) error {
	most := func(part []sample, of func(sample) float64) float64 {
		top := 0.0
		for _, point := range part {
			top = max(top, of(point))
		}
		return top
	}
	quarter := len(curve) / 4
	for name, of := range map[string]func(sample) float64{
		"memory": func(s sample) float64 { return s.rss },
		"disk":   func(s sample) float64 { return s.disk },
	} {
		middle, end := most(curve[quarter:2*quarter], of), most(curve[3*quarter:], of)
		fmt.Printf("%s: at most %.1f MiB in the second quarter, %.1f in the last\n", name, middle, end)
		if end > slack*middle {
			return fmt.Errorf("%s grows with the number of writes", name)
		}
	}
	return nil
}
