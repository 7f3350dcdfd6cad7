#!/usr/bin/env bash
# Sends the corpus in apidiff/ to a reference API server and to a tested one, and prints where their answers differ.
#
#   apidiff.sh REFERENCE.kubeconfig TESTED.kubeconfig [FILE...]
#
# APIDIFF names another program to compare with, called with the same arguments.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
reference=${1:?reference kubeconfig} tested=${2:?tested kubeconfig}
shift 2
files=("$@")
[ ${#files[@]} -gt 0 ] || files=("$here"/apidiff/*.jsonl)
exec "${APIDIFF:-$here/apidiff.py}" "$reference" "$tested" "${files[@]}"
