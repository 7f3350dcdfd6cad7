// Command informers runs what most operators are made of, unmodified client-go, against a cluster: shared informers
// (with protobuf and with JSON), a dynamic informer of a custom resource, a work queue and leader election. Every
// change it makes must be told by each informer once, in order.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const (
	objects = 200
	updates = 3
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
var buoys = schema.GroupVersionResource{Group: "informers.example.com", Version: "v1", Resource: "buoys"}

// witness counts what an informer tells, and whether it comes in order.
type witness struct {
	sync.Mutex
	name                    string
	added, changed, removed int
	counts                  map[string]int
	wrong                   []string
}

func (w *witness) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { w.see(o, func() { w.added++ }, 0) },
		UpdateFunc: func(_, o any) { w.see(o, func() { w.changed++ }, 1) },
		DeleteFunc: func(o any) { w.see(o, func() { w.removed++ }, updates+1) },
	}
}

// see takes one event; step is the least count of changes that the object must show.
func (w *witness) see(o any, count func(), step int) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	object, err := cache.MetaNamespaceKeyFunc(o)
	meta, ok := o.(metav1.Object)
	if err != nil || !ok || meta.GetLabels()["informers"] == "" {
		return
	}
	w.Lock()
	defer w.Unlock()
	count()
	step = min(step, updates)
	now, _ := strconv.Atoi(meta.GetLabels()["informers"])
	if before, known := w.counts[object]; now < step || (known && now < before) {
		w.wrong = append(w.wrong, fmt.Sprintf("%s: %d after %d", object, now, before))
	}
	w.counts[object] = now
}

func (w *witness) done() bool {
	w.Lock()
	defer w.Unlock()
	return w.added == objects && w.changed == objects*updates && w.removed == objects
}

func (w *witness) report() bool {
	w.Lock()
	defer w.Unlock()
	good := len(w.wrong) == 0 && w.added == objects && w.changed == objects*updates && w.removed == objects
	fmt.Printf("%s: %d added, %d changed, %d removed, %d out of order\n", w.name, w.added, w.changed, w.removed, len(w.wrong))
	return good
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "informers:", err)
		os.Exit(1)
	}
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the cluster's")
	other := flag.String("other", "", "that of a second server of the same cluster: informers move between the two, and nothing else is tried")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	check(err)
	config.QPS, config.Burst = -1, 0
	if *other != "" {
		second, err := clientcmd.BuildConfigFromFlags("", *other)
		check(err)
		second.QPS, second.Burst = -1, 0
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if flag.NArg() != commandCount || !failover(ctx, config, second, flag.Args()) {
			os.Exit(1)
		}
		return
	}
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	protobuf.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	custom, err := dynamic.NewForConfig(config)
	check(err)
	define(ctx, custom)
	defer custom.Resource(definitions).Delete(context.Background(), "buoys.informers.example.com", metav1.DeleteOptions{})
	namespace := fmt.Sprintf("informers-%d", os.Getpid())
	plain := kubernetes.NewForConfigOrDie(config)
	_, err = plain.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	check(err)
	defer plain.CoreV1().Namespaces().Delete(context.Background(), namespace, metav1.DeleteOptions{})

	var witnesses []*witness
	watch := func(name string, informer cache.SharedIndexInformer) {
		seen := &witness{name: name, counts: map[string]int{}}
		witnesses = append(witnesses, seen)
		_, err := informer.AddEventHandler(seen.handler())
		check(err)
		go informer.Run(ctx.Done())
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			check(fmt.Errorf("%s never synced", name))
		}
	}
	typed := func(config *rest.Config) cache.SharedIndexInformer {
		client := kubernetes.NewForConfigOrDie(config)
		return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace)).Core().V1().ConfigMaps().Informer()
	}
	watch("ConfigMaps as JSON", typed(config))
	watch("ConfigMaps as protobuf", typed(protobuf))
	watch("custom resources", dynamicinformer.NewFilteredDynamicSharedInformerFactory(custom, 0, namespace, nil).ForResource(buoys).Informer())

	change(ctx, kubernetes.NewForConfigOrDie(protobuf), custom, namespace)
	_ = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		all := true
		for _, one := range witnesses {
			all = all && one.done()
		}
		return all, nil
	})
	good := true
	for _, one := range witnesses {
		good = one.report() && good
	}
	good = elect(ctx, plain, namespace) && good
	if !good {
		// Deferred calls don't run on exit.
		plain.CoreV1().Namespaces().Delete(context.Background(), namespace, metav1.DeleteOptions{})
		custom.Resource(definitions).Delete(context.Background(), "buoys.informers.example.com", metav1.DeleteOptions{})
		os.Exit(1)
	}
}

func define(ctx context.Context, client dynamic.Interface) {
	definition := map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "buoys.informers.example.com"},
		"spec": map[string]any{
			"group": "informers.example.com", "scope": "Namespaced",
			"names": map[string]any{"plural": "buoys", "singular": "buoy", "kind": "Buoy"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}}}},
		},
	}
	_, err := client.Resource(definitions).Create(ctx, &unstructured.Unstructured{Object: definition}, metav1.CreateOptions{})
	check(err)
	check(wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		_, err := client.Resource(buoys).List(ctx, metav1.ListOptions{})
		return err == nil, nil
	}))
}

// change makes, changes and removes every object, from eight workers at once.
func change(ctx context.Context, client kubernetes.Interface, custom dynamic.Interface, namespace string) {
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for n := worker; n < objects; n += 8 {
				name := fmt.Sprintf("o-%d", n)
				labels := map[string]string{"informers": "0"}
				_, err := client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
				check(err)
				buoy := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "informers.example.com/v1", "kind": "Buoy"}}
				buoy.SetName(name)
				buoy.SetLabels(labels)
				_, err = custom.Resource(buoys).Namespace(namespace).Create(ctx, buoy, metav1.CreateOptions{})
				check(err)
				for step := 1; step <= updates; step++ {
					patch := fmt.Appendf(nil, `{"metadata":{"labels":{"informers":"%d"}}}`, step)
					_, err = client.CoreV1().ConfigMaps(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
					check(err)
					_, err = custom.Resource(buoys).Namespace(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
					check(err)
				}
				check(client.CoreV1().ConfigMaps(namespace).Delete(ctx, name, metav1.DeleteOptions{}))
				check(custom.Resource(buoys).Namespace(namespace).Delete(ctx, name, metav1.DeleteOptions{}))
			}
		})
	}
	group.Wait()
}

// elect lets three candidates want one Lease: one leads, and another when it goes.
func elect(ctx context.Context, client kubernetes.Interface, namespace string) bool {
	var lock sync.Mutex
	leading, most, terms := 0, 0, 0
	candidate := func(name string) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock:            &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Name: "leader", Namespace: namespace}, Client: client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: name}},
			LeaseDuration:   2 * time.Second,
			RenewDeadline:   1500 * time.Millisecond,
			RetryPeriod:     200 * time.Millisecond,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) {
					lock.Lock()
					leading, terms = leading+1, terms+1
					most = max(most, leading)
					lock.Unlock()
					time.Sleep(500 * time.Millisecond)
					lock.Lock()
					leading--
					lock.Unlock()
					cancel()
				},
				OnStoppedLeading: func() {},
			},
		})
	}
	var group sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		group.Go(func() { candidate(name) })
	}
	group.Wait()
	fmt.Printf("leader election: %d terms, at most %d leading at once\n", terms, most)
	return terms == 3 && most == 1
}
