// Command follow is an unmodified client-go informer that goes over to another server when its own is lost: what its handlers
// were told, one event after the other, must come to what a list says in the end.
//
//	follow -kubeconfig FILE -servers HOST:PORT,HOST:PORT -namespace NAME -stop FILE     ends when FILE is there
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	connect = 2 * time.Second
	// How long events may take to arrive after the last change.
	patience = time.Minute
)

// Servers to talk to: the same one until it does not answer.
type servers struct {
	sync.Mutex
	all     []string
	current int
	changes int
}

func (s *servers) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	s.Lock()
	defer s.Unlock()
	var last error
	for range s.all {
		connection, err := (&net.Dialer{Timeout: connect}).DialContext(ctx, network, s.all[s.current])
		if err == nil {
			return connection, nil
		}
		last = err
		s.current = (s.current + 1) % len(s.all)
		s.changes++
	}
	return nil, last
}

// What handlers were told.
type told struct {
	sync.Mutex
	state                   map[string]string
	added, changed, removed int
	wrong                   []string
}

func content(object *corev1.ConfigMap) string {
	return fmt.Sprint(object.UID, object.Data, object.Labels)
}

func (t *told) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			t.take(o, func(name string, object *corev1.ConfigMap, known bool) {
				t.added++
				t.judge(!known, "added twice", name)
				t.state[name] = content(object)
			})
		},
		UpdateFunc: func(_, o any) {
			t.take(o, func(name string, object *corev1.ConfigMap, known bool) {
				t.changed++
				t.judge(known, "changed before it was added", name)
				t.state[name] = content(object)
			})
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			t.take(o, func(name string, _ *corev1.ConfigMap, known bool) {
				t.removed++
				t.judge(known, "removed before it was added", name)
				delete(t.state, name)
			})
		},
	}
}

func (t *told) take(o any, note func(string, *corev1.ConfigMap, bool)) {
	t.Lock()
	defer t.Unlock()
	if object, ok := o.(*corev1.ConfigMap); ok {
		_, known := t.state[object.Name]
		note(object.Name, object, known)
	}
}

func (t *told) judge(good bool, what, name string) {
	if !good {
		t.wrong = append(t.wrong, name+" "+what)
	}
}

func (t *told) equals(state map[string]string) bool {
	t.Lock()
	defer t.Unlock()
	return maps.Equal(t.state, state)
}

func main() {
	if err := run(); err != nil {
		fmt.Println("follow:", err)
		os.Exit(1)
	}
}

func run() error {
	kubeconfig := flag.String("kubeconfig", "", "the cluster's")
	hosts := flag.String("servers", "", "its servers")
	namespace := flag.String("namespace", "default", "whose ConfigMaps are followed")
	stop := flag.String("stop", "", "a file that ends it")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	among := &servers{all: strings.Split(*hosts, ",")}
	config.Dial = among.dial
	client := kubernetes.NewForConfigOrDie(config)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	informer := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(*namespace)).Core().V1().ConfigMaps().Informer()
	seen := &told{state: map[string]string{}}
	if _, err := informer.AddEventHandler(seen.handler()); err != nil {
		return err
	}
	go informer.Run(ctx.Done())
	for {
		time.Sleep(200 * time.Millisecond)
		if _, err := os.Stat(*stop); err == nil {
			break
		}
	}
	return compare(ctx, client, *namespace, seen, among)
}

func compare(ctx context.Context, client kubernetes.Interface, namespace string, seen *told, among *servers) error {
	state := map[string]string{}
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(500 * time.Millisecond) {
		list, err := client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			continue
		}
		clear(state)
		for at := range list.Items {
			state[list.Items[at].Name] = content(&list.Items[at])
		}
		if seen.equals(state) {
			break
		}
	}
	if !seen.equals(state) {
		return fmt.Errorf("events came to %d objects, a list to %d, and they differ", len(seen.state), len(state))
	}
	if len(seen.wrong) > 0 || among.changes == 0 {
		return fmt.Errorf("%d changes of server, out of order: %v", among.changes, seen.wrong)
	}
	fmt.Printf("%d added, %d changed, %d removed, %d changes of server, %d objects as a list has them\n", seen.added, seen.changed, seen.removed, among.changes, len(state))
	return nil
}
