#!/usr/bin/env bash
# `make setup`: .venv with exactly requirements.lock, and the four distributions from this checkout, editable.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
UV_VERSION=0.13.8

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 1
}

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed and $PYTHON is not: apt-get install python3 python3-venv, or make setup PYTHON=/path/to/python3.11"

# pip's settings name the index on many machines; uv does not read them.
if [ -z "${UV_DEFAULT_INDEX:-}" ]; then
    index=${PIP_INDEX_URL:-$("$PYTHON" -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX=$index
fi
export UV_PYTHON_DOWNLOADS=never

if uv=$(command -v uv); then
    say "uv is $uv"
elif [ -x .uv/bin/uv ]; then
    uv=.uv/bin/uv
    say "uv is $uv"
else
    say "no uv on PATH: installing uv $UV_VERSION into .uv"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$PYTHON cannot make virtual environments: apt-get install python3-venv"
    "$PYTHON" -m venv .uv
    .uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    uv=.uv/bin/uv
fi

if [ ! -x .venv/bin/python ]; then
    say "making .venv with $("$PYTHON" --version)"
    "$uv" venv --quiet --python "$PYTHON" .venv
fi
say "installing requirements.lock"
"$uv" pip sync --quiet --python .venv/bin/python requirements.lock
say "installing streamproc, -producers, -models and -consumers from this checkout"
"$uv" pip install --quiet --python .venv/bin/python --no-deps --build-constraints requirements.lock \
    -e . -e producers -e models -e consumers

if ! command -v redis-server >/dev/null && ! command -v valkey-server >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "no Redis server on PATH: trying apt-get install redis-server"
        # RUNLEVEL=1 keeps the package from starting a server of its own: the local stack starts one when it needs it.
        (apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y redis-server) \
            >build/apt.log 2>&1 || say "that failed (build/apt.log)"
    fi
    command -v redis-server >/dev/null ||
        .venv/bin/python -c 'from streamproc.local.processes import find_redis; print("setup: the Redis server is", find_redis())' ||
        say "no Redis server: install redis-server or valkey; make demo and make test need one"
fi
if ! command -v java >/dev/null && [ ! -x "${JAVA_HOME:-}/bin/java" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "no java on PATH: trying apt-get install default-jre-headless"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y default-jre-headless) \
            >build/apt-java.log 2>&1 || say "that failed (build/apt-java.log)"
    fi
    command -v java >/dev/null || say "no Java: the fleet runner and its tests need one (8 or newer)"
fi
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "no Chromium on PATH: trying apt-get install chromium"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core) \
            >build/apt-chromium.log 2>&1 || say "that failed (build/apt-chromium.log)"
    fi
    command -v chromium >/dev/null || say "no Chromium: make test-long needs one for the live page"
fi
if command -v npm >/dev/null; then
    if [ ! -e .node/node_modules/kinesis-local/main.js ]; then
        say "installing kinesis-local, the Kinesis of the reshard tests, into .node"
        mkdir -p .node
        npm install --silent --no-save --no-audit --no-fund --prefix .node kinesis-local@0.6.2 ||
            say "that failed: make test-long needs it, make demo and make test do not"
    fi
else
    say "no npm: make test-long needs Node.js with npm, make demo and make test do not"
fi
say "done"
