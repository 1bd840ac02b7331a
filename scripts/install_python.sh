#!/usr/bin/env bash
# Install the locked dependencies and the project itself into .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON3:-python3}
if [ ! -x .venv/bin/python ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: Python 3.11 or newer is needed; name one with PYTHON3=…" >&2
    exit 1
  }
  echo "setup: making .venv"
  "$python" -m venv .venv || {
    echo "setup: the venv module is incomplete; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
  }
fi
if [ ! -x .venv/bin/uv ]; then
  echo "setup: installing uv"
  .venv/bin/python -m pip install --quiet 'uv>=0.5,<1'
fi
echo "setup: installing $(grep -c '^[a-zA-Z].*==' requirements.lock) locked packages"
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet --require-hashes -r requirements.lock
echo "setup: installing the project"
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet --no-deps --editable .
