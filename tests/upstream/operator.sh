#!/usr/bin/env bash
# An unmodified cert-manager, with its definitions, roles and webhooks, is installed by its chart and used: issuers, certificates
# that lead to one another, mistakes that its webhooks refuse, renewal, deletion.
#   operator.sh images OUT.tar     makes its images
#   operator.sh KUBECONFIG         the cluster has them
# UPSTREAM_BIN as in programs.sh.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
export UPSTREAM_BIN=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
parts=(controller webhook cainjector)
"$here/programs.sh" "${parts[@]/#/cert-manager-}" helm kubectl
source=$("$here/programs.sh" source cert-manager)
version=${source##*@}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

images() { # OUT.tar
	local part
	. "$here/archive.bash"
	for part in "${parts[@]}"; do
		put "$part" "app/$part" "$UPSTREAM_BIN/cert-manager-$part"
		user=1000 pack "quay.io/jetstack/cert-manager-$part:$version" "[\"/app/$part\"]" null "$part"
	done
	seal "$1"
}

[ "${1:-}" != images ] || { images "$(realpath -m "${2:?usage: operator.sh images OUT.tar}")"; exit; }
export KUBECONFIG=${1:?usage: operator.sh KUBECONFIG}
# Its webhooks pass over the namespace that it is in.
operator=operator-$$ namespace=harbour-$$
helm() { "$UPSTREAM_BIN/helm" --namespace "$operator" "$@"; }
kubectl() { "$UPSTREAM_BIN/kubectl" --namespace "$namespace" "$@"; }
finish() {
	helm uninstall it --ignore-not-found --wait --timeout 2m >/dev/null || true
	kubectl delete --ignore-not-found namespace/"$namespace" namespace/"$operator" >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap finish EXIT

fail() { echo "operator.sh: $*" >&2; exit 1; }
ready() { # WHAT...
	kubectl wait --for=condition=Ready --timeout=60s "$@" >/dev/null || { kubectl describe "$@" >&2; fail "not ready: $*"; }
	echo "ok: ready: $*"
}
refused() { # WHY: what standard input has
	if kubectl apply -f - >"$work/answer" 2>&1; then fail "passed: $1"; fi
	grep -qF "$1" "$work/answer" || { cat "$work/answer" >&2; fail "refused for another reason than $1"; }
	echo "ok: refused: $1"
}
# shellcheck source=wait.bash
. "$(dirname "$(readlink -f "$0")")/wait.bash"
issuer() { printf 'apiVersion: cert-manager.io/v1\nkind: Issuer\nmetadata: {name: %s}\nspec: %s\n' "$1" "$2"; }
certificate() { printf 'apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: %s}\nspec: %s\n' "$1" "$2"; }
secret() { kubectl get secret "$1" -o "jsonpath={.data.${2//./\\.}}" | base64 -d; }

# The chart as cert-manager's makers put it together.
chart() {
	cp -r --no-preserve=mode "$source/deploy/charts/cert-manager" "$work/chart"
	sed "s/v0.1.0/$version/" "$work/chart/Chart.template.yaml" >"$work/chart/Chart.yaml"
	for file in "$source"/deploy/crds/*.yaml; do
		{ echo '{{- if .Values.installCRDs }}'; cat "$file"; echo '{{- end }}'; } >"$work/chart/templates/$(basename "$file")"
	done
}

install() {
	kubectl create namespace "$namespace" >/dev/null
	# Its check of itself is a program of its own, which looks for what the next lines look for.
	helm install it "$work/chart" --create-namespace --wait --timeout 3m --set installCRDs=true,startupapicheck.enabled=false \
		--set "global.leaderElection.namespace=$operator" >/dev/null
	until_true 60 sh -c "$UPSTREAM_BIN/kubectl get validatingwebhookconfiguration,mutatingwebhookconfiguration -o \
		'jsonpath={.items[*].webhooks[?(@.name==\"webhook.cert-manager.io\")].clientConfig.caBundle}' | grep -q '. .'"
	until_true 60 kubectl apply --dry-run=server -f <(issuer own '{selfSigned: {}}')
	echo "ok: installed; its webhooks are called"
}

mistakes() {
	certificate none '{secretName: none, issuerRef: {name: own}}' |
		refused 'admission webhook "webhook.cert-manager.io" denied the request: spec: Invalid value: "": at least one of commonName, dnsNames, uris ipAddresses, or emailAddresses must be set'
	certificate short '{secretName: short, issuerRef: {name: own}, dnsNames: [a.example.com], duration: 1m}' |
		refused 'spec.duration: Invalid value: 1m0s: certificate duration must be greater than 1h0m0s'
	certificate typo '{secretName: typo, issuerRef: {name: own}, dnsName: [a.example.com]}' | refused 'unknown field "spec.dnsName"'
	certificate usage '{secretName: usage, issuerRef: {name: own}, dnsNames: [a.example.com], usages: [sailing]}' |
		refused 'spec.usages[0]: Unsupported value: "sailing": supported values: "signing", "digital signature"'
	issuer two '{selfSigned: {}, ca: {secretName: root}}' | refused 'spec.selfSigned: Forbidden: may not specify more than one issuer type'
}

certificates() {
	issuer own '{selfSigned: {}}' | kubectl apply -f - >/dev/null
	certificate root '{isCA: true, commonName: root, secretName: root, privateKey: {algorithm: ECDSA, size: 256}, issuerRef: {name: own}}' | kubectl apply -f - >/dev/null
	issuer house '{ca: {secretName: root}}' | kubectl apply -f - >/dev/null
	certificate ferry '{secretName: ferry, dnsNames: [ferry.example.com], privateKey: {rotationPolicy: Always}, issuerRef: {name: house}}' | kubectl apply -f - >/dev/null
	ready issuer/own certificate/root issuer/house certificate/ferry
	secret ferry ca.crt >"$work/ca.crt"
	secret ferry tls.crt >"$work/tls.crt"
	openssl verify -CAfile "$work/ca.crt" -verify_hostname ferry.example.com "$work/tls.crt" >/dev/null || fail "the certificate is not the authority's"
	echo "ok: the certificate is signed by the authority that the other certificate is"
	# The mutating webhook says who asked.
	[ "$(kubectl get certificaterequests -o 'jsonpath={.items[0].spec.username}')" = "system:serviceaccount:$operator:it-cert-manager" ] ||
		fail "requests have no asker: $(kubectl get certificaterequests -o yaml)"
	echo "ok: requests say who asked"
	kubectl get certificates | grep -qE '^ferry +True +ferry +' || fail "columns: $(kubectl get certificates)"
	[ "$(kubectl explain certificate.spec.secretName --api-version=cert-manager.io/v1 | grep -c 'FIELD: secretName <string>')" = 1 ] || fail "not explained"
	echo "ok: columns and explanations"
}

renewal() {
	local before
	before=$(secret ferry tls.key | sha256sum)
	kubectl delete secret ferry >/dev/null
	until_true 60 kubectl get secret ferry
	ready certificate/ferry
	[ "$(secret ferry tls.key | sha256sum)" != "$before" ] || fail "the new Secret has the old key"
	[ "$(kubectl get certificate ferry -o 'jsonpath={.status.revision}')" = 2 ] || fail "not the second revision"
	echo "ok: a Secret that was deleted is issued again"
}

deletion() {
	kubectl delete certificate ferry >/dev/null
	until_true 60 sh -c "[ -z \"\$($UPSTREAM_BIN/kubectl -n $namespace get certificaterequests -o name | grep ferry)\" ]"
	kubectl get secret ferry >/dev/null
	echo "ok: a certificate's requests go with it, its Secret stays"
	helm uninstall it --wait --timeout 2m >/dev/null
	until_true 60 sh -c "[ -z \"\$($UPSTREAM_BIN/kubectl get crd -o name | grep cert-manager.io)\" ]"
	[ -z "$("$UPSTREAM_BIN/kubectl" api-resources --api-group=cert-manager.io -o name)" ] || fail "its kinds are still served"
	echo "ok: uninstalled; its kinds are gone"
}

chart
install
mistakes
certificates
renewal
deletion
