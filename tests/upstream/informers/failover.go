package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// commandCount is how many commands there are: what kills the first server, brings it back, and kills the second.
const commandCount = 3

// way is one address for two servers: connections go to the one that was last reached, else to the other.
type way struct {
	listener net.Listener
	lock     sync.Mutex
	servers  [2]string
	at       int
	moves    int
}

func newWay(servers [2]string) *way {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	w := &way{listener: listener, servers: servers}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go w.carry(client)
		}
	}()
	return w
}

func (w *way) dial() (net.Conn, error) {
	w.lock.Lock()
	defer w.lock.Unlock()
	server, err := net.DialTimeout("tcp", w.servers[w.at], time.Second)
	if err != nil {
		if server, err = net.DialTimeout("tcp", w.servers[1-w.at], time.Second); err == nil {
			w.at, w.moves = 1-w.at, w.moves+1
		}
	}
	return server, err
}

// moved waits until connections have gone to the other server so many times.
func (w *way) moved(ctx context.Context, times int) {
	check(wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		w.lock.Lock()
		defer w.lock.Unlock()
		return w.moves >= times, nil
	}))
}

func (w *way) carry(client net.Conn) {
	defer client.Close()
	server, err := w.dial()
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		io.Copy(server, client)
		server.Close()
	}()
	io.Copy(client, server)
}

// keeper notes what an informer tells of each life of an object, and whether it ever went back.
type keeper struct {
	sync.Mutex
	name   string
	events int
	counts map[types.UID]int
	there  map[types.UID]string
	wrong  []string
}

func (k *keeper) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.see(o, false) },
		UpdateFunc: func(_, o any) { k.see(o, false) },
		DeleteFunc: func(o any) { k.see(o, true) },
	}
}

func (k *keeper) see(o any, gone bool) {
	if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = last.Obj
	}
	object := o.(*corev1.ConfigMap)
	step := 0
	if _, err := fmt.Sscan(object.Data["step"], &step); err != nil {
		return
	}
	k.Lock()
	defer k.Unlock()
	k.events++
	if before, known := k.counts[object.UID]; known && step < before {
		k.wrong = append(k.wrong, fmt.Sprintf("%s: %d after %d", object.Name, step, before))
	}
	k.counts[object.UID] = step
	if gone {
		delete(k.there, object.UID)
	} else {
		k.there[object.UID] = object.Name + "=" + object.Data["step"]
	}
}

// same is whether what was told adds up to what there is.
func (k *keeper) same(list []corev1.ConfigMap) bool {
	k.Lock()
	defer k.Unlock()
	count := 0
	for _, object := range list {
		if object.Data["step"] == "" {
			continue
		}
		count++
		if k.there[object.UID] != object.Name+"="+object.Data["step"] {
			return false
		}
	}
	return count == len(k.there)
}

// failover lets informers move between two servers of a cluster while objects are made, changed and removed. Nothing may
// be told out of order, and in the end what they were told must add up to what is there.
func failover(ctx context.Context, first, second *rest.Config, commands []string) bool {
	host := func(config *rest.Config) string {
		at, err := url.Parse(config.Host)
		check(err)
		return at.Host
	}
	way := newWay([2]string{host(first), host(second)})
	through := rest.CopyConfig(first)
	through.Host = "https://" + way.listener.Addr().String()
	protobuf := rest.CopyConfig(through)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	protobuf.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	clients := [2]*kubernetes.Clientset{kubernetes.NewForConfigOrDie(first), kubernetes.NewForConfigOrDie(second)}
	namespace := fmt.Sprintf("failover-%d", os.Getpid())
	_, err := clients[0].CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	check(err)
	check(wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := clients[1].CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, nil
	}))

	var keepers []*keeper
	for name, config := range map[string]*rest.Config{"JSON": through, "protobuf": protobuf} {
		seen := &keeper{name: name, counts: map[types.UID]int{}, there: map[types.UID]string{}}
		keepers = append(keepers, seen)
		client := kubernetes.NewForConfigOrDie(config)
		informer := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace)).Core().V1().ConfigMaps().Informer()
		_, err := informer.AddEventHandler(seen.handler())
		check(err)
		go informer.Run(ctx.Done())
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			check(fmt.Errorf("%s never synced", name))
		}
	}
	// The second server is written to until it is killed itself.
	for round, writer := range []int{1, 1, 0} {
		switch round {
		case 1:
			command(commands[0])
		case 2:
			// An informer waits for a second before it dials again.
			way.moved(ctx, 1)
			command(commands[1])
			alike(ctx, clients, namespace)
			command(commands[2])
		}
		work(ctx, clients[writer], namespace, round)
	}
	way.moved(ctx, 2)
	good := true
	for _, one := range keepers {
		err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			list, err := clients[0].CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
			return err == nil && one.same(list.Items), nil
		})
		one.Lock()
		fmt.Printf("%s: %d events, %d objects, %d out of order, complete: %t\n", one.name, one.events, len(one.there), len(one.wrong), err == nil)
		good = good && err == nil && len(one.wrong) == 0 && len(one.there) > 0
		one.Unlock()
	}
	fmt.Printf("the client moved %d times\n", way.moves)
	return good
}

// work makes, changes and removes objects of one round, while what the round before left is changed and half of it removed.
func work(ctx context.Context, client kubernetes.Interface, namespace string, round int) {
	those := client.CoreV1().ConfigMaps(namespace)
	for n := range 60 {
		name := fmt.Sprintf("o-%d-%d", round, n)
		_, err := those.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"step": "1"}}, metav1.CreateOptions{})
		check(err)
		set := func(name string, step int) {
			_, err := those.Patch(ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"data":{"step":"%d"}}`, step), metav1.PatchOptions{})
			check(err)
		}
		for step := 2; step <= 4; step++ {
			set(name, step)
		}
		if n%3 == 0 {
			check(those.Delete(ctx, name, metav1.DeleteOptions{}))
		}
		if old := fmt.Sprintf("o-%d-%d", round-1, n); round > 0 && n%3 == 1 {
			set(old, 5)
		} else if round > 0 && n%3 == 2 {
			check(those.Delete(ctx, old, metav1.DeleteOptions{}))
		}
	}
}

// alike waits until both servers have the same.
func alike(ctx context.Context, clients [2]*kubernetes.Clientset, namespace string) {
	check(wait.PollUntilContextTimeout(ctx, 500*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		var all [2]map[string]string
		for n, client := range clients {
			list, err := client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return false, nil
			}
			all[n] = map[string]string{}
			for _, object := range list.Items {
				all[n][string(object.UID)] = object.Data["step"]
			}
		}
		return maps.Equal(all[0], all[1]), nil
	}))
}

func command(text string) {
	run := exec.Command("sh", "-c", text)
	run.Stdout, run.Stderr = os.Stderr, os.Stderr
	if err := run.Run(); err != nil {
		check(fmt.Errorf("%s: %w", strings.TrimSpace(text), err))
	}
}
