// Package testserver stands in for k8s.io/apiserver/pkg/storage/etcd3/testserver: the same functions, but the server
// is Eyot's. storage.sh puts it into its copy of the module.
package testserver

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// NewTestConfig returns etcd's configuration; tests change limits in it, which Start passes on.
func NewTestConfig(t testing.TB) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	return cfg
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// RunEtcd starts a datastore of its own for the test, and ends it with the test.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	if cfg == nil {
		cfg = NewTestConfig(t)
	}
	address := fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
	log := &bytes.Buffer{}
	server := exec.Command(os.Getenv("EYOT"), "server", "--config", os.DevNull, "--data-dir", cfg.Dir, "--datastore-only",
		"--etcd-listen", address, "--etcd-max-request-bytes", fmt.Sprint(cfg.MaxRequestBytes),
		"--etcd-max-txn-ops", fmt.Sprint(cfg.MaxTxnOps))
	server.Stdout, server.Stderr = log, log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGTERM)
		if err := server.Wait(); err != nil || t.Failed() {
			t.Logf("the server ended (%v), saying:\n%s", err, log)
		}
	})
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   []string{address},
		DialTimeout: 30 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithBlock()},
		Logger:      zaptest.NewLogger(t, zaptest.Level(zapcore.ErrorLevel)).Named("etcd-client"),
	})
	if err != nil {
		t.Fatal(err)
	}
	client.KV = storagetesting.NewKVRecorder(client.KV)
	client.Kubernetes = storagetesting.NewKubernetesRecorder(client.Kubernetes)
	return client
}
