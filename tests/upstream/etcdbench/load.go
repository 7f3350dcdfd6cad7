package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// Clients share this many connections at most, as with etcd's own benchmark.
	connections = 100
	// Keys that puts go to, and that ranges read.
	keys = 10000
	// Size of a value where nothing else is said: a small object of Kubernetes.
	object = 1024
)

var ctx = context.Background()

type pool []*clientv3.Client

func dial(endpoint string) (pool, error) {
	var all pool
	for range connections {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, MaxCallRecvMsgSize: 1 << 30})
		if err != nil {
			return nil, err
		}
		all = append(all, client)
	}
	return all, nil
}

func (p pool) close() {
	for _, client := range p {
		client.Close()
	}
}

// One client of many: its number, its connection, and chance that is the same in each run.
type client struct {
	*clientv3.Client
	number int
	random *rand.Rand
}

type load struct {
	name string
	run  func(pool, time.Duration) (result, error)
}

// One request of a client.
type step func(*client) error

// Runs clients until the time is over. What is made of each client once is not measured.
func loop(clients int, each func(*client) (step, error)) func(pool, time.Duration) (result, error) {
	return func(all pool, length time.Duration) (result, error) {
		took, failed := make([][]time.Duration, clients), make([]error, clients)
		var ready, done sync.WaitGroup
		begin := make(chan struct{})
		ready.Add(clients)
		var end time.Time
		for number := range clients {
			done.Go(func() {
				me := &client{all[number%len(all)], number, rand.New(rand.NewSource(int64(number)))}
				once, err := each(me)
				ready.Done()
				<-begin
				for err == nil && time.Now().Before(end) {
					from := time.Now()
					if err = once(me); err == nil {
						took[number] = append(took[number], time.Since(from))
					}
				}
				failed[number] = err
			})
		}
		ready.Wait()
		begun := time.Now()
		end = begun.Add(length)
		close(begin)
		done.Wait()
		sum := result{length: time.Since(begun)}
		for number := range clients {
			sum.took = append(sum.took, took[number]...)
		}
		return sum, first(failed)
	}
}

func first(failed []error) error {
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

func always(once step) func(*client) (step, error) {
	return func(*client) (step, error) { return once, nil }
}

func value(bytes int, random *rand.Rand) string {
	buffer := make([]byte, bytes)
	random.Read(buffer)
	return string(buffer)
}

func key(n int) string { return fmt.Sprintf("/registry/bench/default/object-%05d", n) }

func put(bytes int) func(*client) (step, error) {
	return func(me *client) (step, error) {
		text := value(bytes, me.random)
		return func(me *client) error {
			_, err := me.Put(ctx, key(me.random.Intn(keys)), text)
			return err
		}, nil
	}
}

// The calls of kube-apiserver's storage layer, in turn: a create, three updates, a delete; each by its own condition.
func transactions(me *client) (step, error) {
	text, at, turn, born := value(object, me.random), int64(0), 0, 0
	name := ""
	return func(me *client) error {
		if at == 0 {
			born++
			name = fmt.Sprintf("/registry/made/default/object-%d-%d", me.number, born)
		}
		op, otherwise := clientv3.OpPut(name, text), []clientv3.Op{}
		if at != 0 {
			otherwise = append(otherwise, clientv3.OpGet(name))
		}
		if turn == 4 {
			op = clientv3.OpDelete(name)
		}
		done, err := me.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(name), "=", at)).Then(op).Else(otherwise...).Commit()
		if err != nil {
			return err
		}
		if !done.Succeeded {
			return fmt.Errorf("somebody else changed %s", name)
		}
		at, turn = done.Header.Revision, (turn+1)%5
		if turn == 0 {
			at = 0
		}
		return nil
	}, nil
}

func get(options ...clientv3.OpOption) step {
	return func(me *client) error {
		_, err := me.Get(ctx, "/registry/bench/", append(options, clientv3.WithPrefix())...)
		return err
	}
}

func one(me *client) error {
	_, err := me.Get(ctx, key(me.random.Intn(keys)))
	return err
}

func mixed(me *client) (step, error) {
	write, err := put(object)(me)
	return func(me *client) error {
		if me.random.Intn(10) < 3 {
			return write(me)
		}
		return one(me)
	}, err
}

func keepAlive(me *client) (step, error) {
	lease, err := me.Grant(ctx, 600)
	if err != nil {
		return nil, err
	}
	return func(me *client) error {
		alive, err := me.KeepAliveOnce(ctx, lease.ID)
		if err == nil && alive.TTL <= 0 {
			err = errors.New("the lease is gone")
		}
		return err
	}, nil
}

// Fills the keys that ranges read.
func fill(all pool, _ time.Duration) (result, error) {
	begun, next := time.Now(), make(chan int)
	var done sync.WaitGroup
	took, failed := make([][]time.Duration, 64), make([]error, 64)
	for number := range took {
		done.Go(func() {
			text := value(object, rand.New(rand.NewSource(int64(number))))
			for n := range next {
				from := time.Now()
				if _, err := all[number].Put(ctx, key(n), text); err != nil {
					failed[number] = err
				}
				took[number] = append(took[number], time.Since(from))
			}
		})
	}
	for n := range keys {
		next <- n
	}
	close(next)
	done.Wait()
	sum := result{length: time.Since(begun)}
	for _, some := range took {
		sum.took = append(sum.took, some...)
	}
	return sum, first(failed)
}

// From sending a put to each of 100 watchers having its event, at 100 puts a second.
func watch(all pool, length time.Duration) (result, error) {
	const watchers, every = 100, 10 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var told sync.WaitGroup
	took := make([][]time.Duration, watchers)
	puts := int(length / every)
	for number := range watchers {
		news := all[number%len(all)].Watch(ctx, "/registry/told/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		if first, ok := <-news; !ok || first.Err() != nil {
			return result{}, fmt.Errorf("no watch: %w", first.Err())
		}
		told.Go(func() {
			for response := range news {
				now := time.Now()
				for _, event := range response.Events {
					if sent, err := strconv.ParseInt(string(event.Kv.Value), 10, 64); err == nil {
						took[number] = append(took[number], now.Sub(time.Unix(0, sent)))
					}
				}
				if len(took[number]) >= puts {
					return
				}
			}
		})
	}
	begun := time.Now()
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for n := range puts {
		<-ticks.C
		if _, err := all[n%len(all)].Put(ctx, fmt.Sprintf("/registry/told/%d", n%100), strconv.FormatInt(time.Now().UnixNano(), 10)); err != nil {
			return result{}, err
		}
	}
	told.Wait()
	sum := result{length: time.Since(begun)}
	for _, some := range took {
		sum.took = append(sum.took, some...)
	}
	return sum, nil
}

func loads() []load {
	all := []load{{"fill 10,000 keys, 64 clients", fill}}
	for _, size := range []struct {
		name  string
		bytes int
	}{{"256 B", 256}, {"1 KB", object}, {"4 KB", 4 << 10}, {"64 KB", 64 << 10}} {
		for _, clients := range []int{1, 64, 1000} {
			all = append(all, load{fmt.Sprintf("put %s, %d clients", size.name, clients), loop(clients, put(size.bytes))})
		}
	}
	for _, clients := range []int{1, 64, 1000} {
		all = append(all,
			load{fmt.Sprintf("create, update, delete, %d clients", clients), loop(clients, transactions)},
			load{fmt.Sprintf("get, %d clients", clients), loop(clients, always(one))},
			load{fmt.Sprintf("30 %% puts, 70 %% gets, %d clients", clients), loop(clients, mixed)})
	}
	// After the puts the keys are as large as those left them: small again first.
	all = append(all, load{"fill again, 64 clients", fill})
	for _, clients := range []int{1, 64} {
		all = append(all,
			load{fmt.Sprintf("range of 500, %d clients", clients), loop(clients, always(get(clientv3.WithLimit(500))))},
			load{fmt.Sprintf("count of 10,000, %d clients", clients), loop(clients, always(get(clientv3.WithCountOnly())))})
	}
	return append(all,
		load{"range of 10,000, 1 client", loop(1, always(get()))},
		load{"lease keep-alive, 64 clients", loop(64, keepAlive)},
		load{"watch: put to event, 100 watchers", watch})
}

// Processor time that a process has used so far, in seconds (proc(5): ticks of 10 ms).
func cpu(pid string) float64 {
	data, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// Resident memory of a process now, in MiB.
func resident(pid string) float64 {
	data, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(text)[0], 64)
			return kib / 1024
		}
	}
	return 0
}
