#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME, one after the other, and
# fails if one finds something. What it finds is left under testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go} time=${FUZZTIME:-30s}

found=0
for package in $("$go" list ./...); do
	listed=$("$go" test -list '^Fuzz' "$package") # a package that does not build ends it here
	for target in $(grep '^Fuzz' <<<"$listed" || true); do
		found=$((found + 1))
		echo "== $package $target $time"
		"$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
	done
done
if [ $found = 0 ]; then
	echo "no fuzz target found" >&2
	exit 1
fi
echo "$found fuzz targets, nothing found"
