#!/usr/bin/env bash
# Fills WHEELS (.gpu/wheels) with the kit, and with what a machine may lack that has torch for its GPU but no network.
# GPU_PYTHON is the version of Python there; CARRIED is what it lacks, which pip finds with all that it requires.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-$root/.gpu/wheels}
GPU_PYTHON=${GPU_PYTHON:-$("$PYTHON" -c "import sys; print('%d.%d' % sys.version_info[:2])")}
read -ra carried <<<"${CARRIED:-pydantic tomli tomli-w}"
mkdir -p "$WHEELS"
rm -f "$WHEELS"/*.whl
"$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$WHEELS" "$root"
"$PYTHON" -m pip download --quiet --python-version "$GPU_PYTHON" --only-binary=:all: --dest "$WHEELS" "${carried[@]}"
ls "$WHEELS"
