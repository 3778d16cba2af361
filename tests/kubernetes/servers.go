//go:build tools

// Package kubernetes names the servers that `cargo xtask test-k8s` builds: an API server of Kubernetes, and the etcd
// that it keeps things in.
package kubernetes

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
