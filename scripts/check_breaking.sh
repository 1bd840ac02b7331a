#!/usr/bin/env bash
# Compare the protos with those of the main branch: nothing that is on the wire may change its meaning.
set -euo pipefail
cd "$(dirname "$0")/.."

base=
for branch in main origin/main; do
  if git rev-parse --quiet --verify "$branch^{commit}" >/dev/null 2>&1; then
    base=$branch
    break
  fi
done
if [ -z "$base" ]; then
  echo "buf breaking: skipped, there is no main branch to compare with"
elif ! git cat-file -e "$base:protos" 2>/dev/null || ! git cat-file -e "$base:buf.yaml" 2>/dev/null; then
  echo "buf breaking: skipped, $base has no protos yet"
else
  before=$(mktemp -d)
  trap 'rm -rf "$before"' EXIT
  git archive "$base" buf.yaml protos | tar -x -C "$before"
  node_modules/.bin/buf breaking --against "$before"
  echo "buf breaking: compatible with $base"
fi
