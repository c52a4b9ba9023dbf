#!/usr/bin/env bash
# Builds leafd for each board we ship for, static and stripped, into dist/, and
# prints a table of sizes. All else, tests too, must compile for it as well.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go} version=${VERSION:-unknown} tags=${TAGS:-nethttpomithttp2}
mkdir -p dist

echo "| target | file | bytes | MB |"
echo "|---|---|---|---|"
for target in amd64 arm64 arm-7 arm-6 riscv64; do
	arch=${target%-*}
	arm=""
	[[ $target == *-* ]] && arm=${target#*-}
	out=dist/leafd-linux-${arch}${arm:+v$arm}
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=$arm "$go" vet ./...
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=$arm \
		"$go" build -trimpath -buildvcs=false -tags "$tags" -ldflags "-s -w -X main.version=$version" -o "$out" ./cmd/leafd
	size=$(stat -c %s "$out")
	echo "| linux/$arch${arm:+ GOARM=$arm} | $out | $size | $(awk "BEGIN { printf \"%.2f\", $size / 1e6 }") |"
done
