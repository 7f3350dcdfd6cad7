// Judges recorded calls of etcd's API with Porcupine, the checker of etcd's own robustness tests.
//
//	histories FILE
//
// FILE is what pkg/etcd's test `histories` writes: calls with their times, and the ends of leases.
package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

type kv struct {
	Key, Value                       string
	Create, Modified, Version, Lease int64
}

type write struct {
	Put *struct {
		Key, Value string
		Lease      int64
	}
	Delete *struct{ Key string }
}

type guard struct {
	key      string
	revision int64
}

func (g *guard) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&g.key, &g.revision})
}

type request struct {
	List *struct {
		Prefix string
		Limit  int
	}
	Txn *struct {
		Guard     []guard
		Then      []write
		Otherwise *string
	}
}

type answer struct {
	Revision  int64
	Succeeded bool
	Kvs       []kv
	Count     int
	Previous  []*kv
}

// Calls that nobody answered have a text here instead of an answer.
type outcome struct{ Done *answer }

func (o *outcome) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return nil
	}
	var done struct{ Done *answer }
	err := json.Unmarshal(data, &done)
	o.Done = done.Done
	return err
}

type step struct {
	Revision int64
	From     int64 `json:"from_us"`
	To       int64 `json:"to_us"`
	Call     *struct {
		Client  int
		Request request
		Outcome outcome
	}
	// Keys that went with a lease, when it is no call.
	Ended []struct{ Key string }
}

// A store at a revision; revisions rise, and leave gaps.
type state struct {
	revision int64
	kvs      map[string]kv
}

func (s state) modified(key string) int64 { return s.kvs[key].Modified }

func (s state) list(prefix string, limit int) ([]kv, int) {
	var found []kv
	for _, key := range slices.Sorted(maps.Keys(s.kvs)) {
		if strings.HasPrefix(key, prefix) {
			found = append(found, s.kvs[key])
		}
	}
	count := len(found)
	if limit > 0 && count > limit {
		found = found[:limit]
	}
	return found, count
}

// What writes leave, what they replaced, and whether they changed anything.
func (s state) written(revision int64, then []write) (state, []*kv, bool) {
	after, changed := state{revision, maps.Clone(s.kvs)}, false
	var previous []*kv
	for _, op := range then {
		key := ""
		if op.Put != nil {
			key = op.Put.Key
		} else {
			key = op.Delete.Key
		}
		before, existed := s.kvs[key]
		if existed {
			previous = append(previous, &before)
		} else {
			previous = append(previous, nil)
		}
		if op.Put == nil {
			delete(after.kvs, key)
			changed = changed || existed
			continue
		}
		entry := kv{key, op.Put.Value, revision, revision, 1, op.Put.Lease}
		if existed {
			entry.Create, entry.Version = before.Create, before.Version+1
		}
		after.kvs[key], changed = entry, true
	}
	return after, previous, changed
}

func same(got, want []kv) bool { return len(got) == 0 && len(want) == 0 || slices.Equal(got, want) }

func apply(s state, of step) (bool, state) {
	if of.Call == nil {
		after := state{of.Revision, maps.Clone(s.kvs)}
		for _, ended := range of.Ended {
			delete(after.kvs, ended.Key)
		}
		return of.Revision > s.revision, after
	}
	done := of.Call.Outcome.Done
	read := func(prefix string, limit int) bool {
		kvs, count := s.list(prefix, limit)
		return s.revision == of.Revision && count == done.Count && same(done.Kvs, kvs)
	}
	if list := of.Call.Request.List; list != nil {
		return s.kvs != nil && len(s.kvs) == 0 && s.revision == 0 && done.Count == 0 || read(list.Prefix, list.Limit), s
	}
	txn := of.Call.Request.Txn
	holds := true
	for _, guard := range txn.Guard {
		holds = holds && s.modified(guard.key) == guard.revision
	}
	if done != nil && done.Succeeded != holds || done == nil && !holds {
		return false, s
	}
	if !holds {
		return txn.Otherwise == nil || read(*txn.Otherwise, 0), s
	}
	after, previous, changed := s.written(of.Revision, txn.Then)
	if done != nil && !reflect.DeepEqual(previous, done.Previous) {
		return false, s
	}
	if !changed {
		return s.revision == of.Revision || s.revision == 0, s
	}
	return of.Revision > s.revision, after
}

// The store, from a state on.
func model(from state) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return from },
		Step: func(before, of, _ any) (bool, any) {
			ok, after := apply(before.(state), of.(step))
			return ok, after
		},
		// A revision stands for all that was written up to it.
		Equal: func(a, b any) bool {
			return a.(state).revision == b.(state).revision && maps.Equal(a.(state).kvs, b.(state).kvs)
		},
	}
}

func run(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var steps []step
	if err := json.Unmarshal(data, &steps); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var operations []porcupine.Operation
	for _, step := range steps {
		client := 0
		if step.Call != nil {
			client = step.Call.Client + 1
		}
		operations = append(operations, porcupine.Operation{ClientId: client, Input: step, Call: step.From, Return: step.To})
	}
	begun := time.Now()
	from := state{0, map[string]kv{}}
	for at := 0; at < len(steps); at += window / 2 {
		if result := porcupine.CheckOperationsTimeout(model(from), part(operations, at, window), time.Minute); result != porcupine.Ok {
			return fmt.Errorf("calls %d and following: Porcupine says %s", at, result)
		}
		for _, step := range part(steps, at, window/2) {
			_, from = apply(from, step)
		}
	}
	fmt.Printf("%d calls: linearizable, says Porcupine after %.1f s\n", len(operations), time.Since(begun).Seconds())
	return sharp(part(operations, 0, 500))
}

// Porcupine takes memory by the square of what it is given: it gets so many calls at once, each twice, in the order of
// their revisions.
const window = 4000

func part[T any](all []T, from, length int) []T { return all[from:min(from+length, len(all))] }

// A checker that finds nothing proves nothing: with one answer made wrong, the beginning of a history must not pass. (All of
// it would be searched for hours.)
func sharp(operations []porcupine.Operation) error {
	for at := len(operations) - 1; at >= 0; at-- {
		wrong := operations[at].Input.(step)
		if wrong.Call != nil && wrong.Call.Outcome.Done != nil && len(wrong.Call.Outcome.Done.Kvs) > 0 {
			wrong.Call.Outcome.Done.Kvs[0].Value = "never written"
			break
		}
	}
	if porcupine.CheckOperationsTimeout(model(state{0, map[string]kv{}}), operations, time.Minute) == porcupine.Ok {
		return fmt.Errorf("Porcupine passes a read of what was never written")
	}
	return nil
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
