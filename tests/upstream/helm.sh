#!/usr/bin/env bash
# An unmodified Helm takes a release with an object of each common kind through its life: install, upgrade, a failed
# upgrade, rollback, test, uninstall.
#   helm.sh KUBECONFIG       the cluster has the image eyot.dev/demo:1
# UPSTREAM_BIN as in programs.sh.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
export KUBECONFIG=${1:?usage: helm.sh KUBECONFIG}
export UPSTREAM_BIN=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
"$here/programs.sh" helm kubectl
namespace=helm-$$
helm() { "$UPSTREAM_BIN/helm" --namespace "$namespace" "$@"; }
kubectl() { "$UPSTREAM_BIN/kubectl" --namespace "$namespace" "$@"; }
trap 'helm uninstall it --ignore-not-found --wait >/dev/null; kubectl delete --ignore-not-found namespace/"$namespace" crd/ferries.harbour.example.com >/dev/null 2>&1' EXIT

colors() { # what every object that shows the colour has
	kubectl get deployment,statefulset,daemonset it -o jsonpath='{range .items[*]}{.spec.template.spec.containers[0].env[0].value} {end}'
	kubectl get configmap,ferry it -o jsonpath='{range .items[*]}{.data.color}{.spec.color} {end}'
	kubectl get ingress it -o jsonpath='{.spec.rules[0].host}'
}

expect() { # WHAT WANTED FOUND
	[ "$2" = "$3" ] || { echo "helm.sh: $1: expected '$2', found '$3'" >&2; exit 1; }
	echo "ok: $1"
}

revision() { helm status it -o json | sed -n 's/.*"version":\([0-9]*\).*/\1/p'; }

helm install it "$here/chart" --create-namespace --wait --timeout 3m >/dev/null
expect "installed" "blue blue blue blue blue blue.example.com" "$(colors)"
helm upgrade it "$here/chart" --set color=green,replicas=2 --wait --timeout 3m >/dev/null
expect "upgraded" "green green green green green green.example.com" "$(colors)"
expect "scaled" "2" "$(kubectl get deployment it -o jsonpath='{.status.readyReplicas}')"
if helm upgrade it "$here/chart" --set color=red,replicas=-1 --wait --timeout 1m 2>/tmp/helm-$$; then
	echo "helm.sh: an impossible upgrade passed" >&2
	exit 1
fi
grep -q 'spec.replicas: Invalid value: -1: must be greater than or equal to 0' /tmp/helm-$$ || { cat /tmp/helm-$$ >&2; exit 1; }
rm -f /tmp/helm-$$
echo "ok: an impossible upgrade is refused with its reason"
helm rollback it 1 --wait --timeout 3m >/dev/null
expect "rolled back" "blue blue blue blue blue blue.example.com" "$(colors)"
helm test it --timeout 1m >/dev/null
echo "ok: tested through its Service"
helm uninstall it --wait --timeout 2m >/dev/null
expect "uninstalled" "" "$(kubectl get deployment,statefulset,daemonset,service,configmap,ingress,pvc -l app.kubernetes.io/managed-by=Helm -o name)"
