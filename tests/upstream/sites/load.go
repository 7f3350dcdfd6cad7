package main

import (
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	// Random bytes in a value: with the object around it a value is 1 KB.
	random = 600
	// Requests under way at most; more would only measure this program.
	inFlight = 2000
	prefix   = "/registry/configmaps/bench/"
)

// What a load made of one server.
type report struct {
	Site int `json:"site"`
	// Each write's time in milliseconds, from when it was due.
	TookMs []float64 `json:"took_ms"`
	Failed int       `json:"failed"`
	Error  string    `json:"error,omitempty"`
	// Milliseconds from another site's write to its sight here.
	LagMs []float64 `json:"lag_ms,omitempty"`
	// Bytes of keys and values that were written.
	Bytes   int     `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

func dial(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
}

func key(site, n int) string { return fmt.Sprintf("%ss%02d-%04d", prefix, site, n) }

// A ConfigMap as an API server stores it. Its data don't compress.
func value(site, n int, now time.Time, chance *rand.Rand) string {
	data := make([]byte, random)
	chance.Read(data)
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"s%02d-%04d","namespace":"bench","uid":"00000000-0000-4000-8000-%06d%06d",`+
		`"creationTimestamp":"2026-01-01T00:00:00Z"},"data":{"at":"%d","value":"%s"}}`,
		site, n, site, n, now.UnixMicro(), base64.StdEncoding.EncodeToString(data))
}

// When the value was written, microseconds since 1970.
func at(value string) int64 {
	_, rest, _ := strings.Cut(value, `"at":"`)
	text, _, _ := strings.Cut(rest, `"`)
	written, _ := strconv.ParseInt(text, 10, 64)
	return written
}

type writer struct {
	sync.Mutex
	report
	client  *clientv3.Client
	timeout time.Duration
	chance  *rand.Rand
	// Keys that its writes go round.
	keys int
}

func (w *writer) write(n int, due time.Time) {
	w.Lock()
	n %= w.keys
	key, value := key(w.Site, n), value(w.Site, n, due, w.chance)
	w.Bytes += len(key) + len(value)
	w.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), w.timeout)
	defer cancel()
	_, err := w.client.Put(ctx, key, value)
	took := time.Since(due)
	w.Lock()
	defer w.Unlock()
	if err != nil {
		w.Failed++
		w.Error = err.Error()
		return
	}
	w.TookMs = append(w.TookMs, float64(took.Microseconds())/1000)
}

// An open loop: a write is begun when it is due, whatever became of those before. When they are due is chance, as with clients that
// know nothing of each other: with a rhythm, all sites would write at the same moments.
func (w *writer) steadily(rate float64, start time.Time, length time.Duration) {
	var all sync.WaitGroup
	slots := make(chan struct{}, inFlight)
	due := make([]time.Time, int(math.Round(rate*length.Seconds())))
	chance := rand.New(rand.NewSource(int64(w.Site)))
	for n := range due {
		due[n] = start.Add(time.Duration(chance.Float64() * float64(length)))
	}
	slices.SortFunc(due, time.Time.Compare)
	for n, due := range due {
		time.Sleep(time.Until(due))
		slots <- struct{}{}
		all.Go(func() {
			w.write(n, due)
			<-slots
		})
	}
	all.Wait()
}

// A closed loop: each client writes again when it is answered.
func (w *writer) hard(clients int, start time.Time, length time.Duration) {
	var all sync.WaitGroup
	time.Sleep(time.Until(start))
	for c := range clients {
		all.Go(func() {
			for n := c; time.Since(start) < length; n += clients {
				w.write(n, time.Now())
			}
		})
	}
	all.Wait()
}

// Notes how old other sites' writes are when they are seen here.
func (w *writer) watch(ctx context.Context, start time.Time) {
	own := fmt.Sprintf("%ss%02d-", prefix, w.Site)
	for answer := range w.client.Watch(ctx, prefix, clientv3.WithPrefix()) {
		now := time.Now().UnixMicro()
		w.Lock()
		for _, event := range answer.Events {
			written := at(string(event.Kv.Value))
			if !strings.HasPrefix(string(event.Kv.Key), own) && written >= start.UnixMicro() {
				w.LagMs = append(w.LagMs, float64(now-written)/1000)
			}
		}
		w.Unlock()
	}
}

func load(args []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	endpoint := flags.String("endpoint", "http://127.0.0.1:2379", "the server at this site")
	site := flags.Int("site", 0, "the site's number")
	rate := flags.Float64("rate", 20, "writes a second")
	clients := flags.Int("clients", 0, "so many clients that write as fast as they are answered, instead")
	count := flags.Int("count", 0, "only so many writes")
	seconds := flags.Float64("seconds", 5, "how long")
	from := flags.Int64("start", 0, "when to begin, in milliseconds since 1970")
	keys := flags.Int("keys", 100, "keys that the writes go round")
	timeout := flags.Duration("timeout", 5*time.Second, "a write that takes longer has failed")
	watch := flags.Bool("watch", false, "also tell how late other sites' writes are seen")
	linger := flags.Duration("linger", 0, "and go on watching for so long after the last write")
	_ = flags.Parse(args)
	client, err := dial(*endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	// The first request makes the connection.
	if _, err := client.Get(context.Background(), "/none"); err != nil {
		return err
	}
	w := &writer{client: client, keys: *keys, timeout: *timeout, chance: rand.New(rand.NewSource(time.Now().UnixNano()))}
	w.Site = *site
	start := time.UnixMilli(*from)
	if *from == 0 {
		start = time.Now()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if *watch {
		go w.watch(ctx, start)
	}
	length := time.Duration(*seconds * float64(time.Second))
	if *count > 0 {
		length = time.Duration(float64(*count) / *rate * float64(time.Second))
	}
	if *clients > 0 {
		w.hard(*clients, start, length)
	} else {
		w.steadily(*rate, start, length)
	}
	w.Seconds = time.Since(start).Seconds()
	time.Sleep(*linger)
	w.Lock()
	defer w.Unlock()
	return tell(w.report)
}

// Waits until so many keys have values that were written after a time, and tells when the last of them was seen here.
func follow(args []string) error {
	flags := flag.NewFlagSet("follow", flag.ExitOnError)
	endpoint := flags.String("endpoint", "http://127.0.0.1:2379", "the server at this site")
	count := flags.Int("count", 0, "keys")
	since := flags.Int64("since", 0, "milliseconds since 1970")
	timeout := flags.Duration("timeout", time.Minute, "how long to wait for them")
	_ = flags.Parse(args)
	client, err := dial(*endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	// What this very server has.
	found, err := client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		return err
	}
	seen, last := map[string]bool{}, time.Now()
	note := func(key, value []byte) {
		if at(string(value)) >= *since*1000 && !seen[string(key)] {
			seen[string(key)], last = true, time.Now()
		}
	}
	for _, kv := range found.Kvs {
		note(kv.Key, kv.Value)
	}
	watch := client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(found.Header.Revision+1))
	for len(seen) < *count {
		answer, ok := <-watch
		if !ok || answer.Err() != nil {
			return fmt.Errorf("%d of %d keys arrived: %v", len(seen), *count, answer.Err())
		}
		for _, event := range answer.Events {
			note(event.Kv.Key, event.Kv.Value)
		}
	}
	return tell(map[string]any{"last_ms": float64(last.UnixMicro()) / 1000, "seen": len(seen)})
}
