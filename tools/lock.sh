#!/usr/bin/env bash
# `make lock`: resolves anew, for every Python and platform, and writes requirements.lock: versions and hashes, no index.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$(command -v uv || echo .uv/bin/uv)
"$uv" lock --quiet --upgrade
{
    echo "# Every dependency of the four distributions, their extras and the tools, with hashes. Made by: make lock"
    "$uv" export --quiet --frozen --all-packages --all-extras --all-groups \
        --no-emit-workspace --no-emit-index-url --no-header --no-annotate
} >requirements.lock.part
mv requirements.lock.part requirements.lock
echo "lock: requirements.lock holds $(grep -c '==' requirements.lock) packages"
