#!/usr/bin/env bash
# What runs on the lent machine: unpack the bundle's packages beside the torch that is there, then the plan.
#   bash benchmarks/gpu/run.sh --plan first --output "$OUT"
# BUNDLE, WORK and PYTHON say where the bundle is, where stages leave things, and which Python holds torch.
set -u
cd "$(dirname "$0")/../.."
BEGAN=$(date +%s)
PYTHON=${PYTHON:-python3}
BUNDLE=${BUNDLE:-.gpu}
WORK=${WORK:-/tmp/starmd-gpu}
mkdir -p "$WORK"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -e "$BUNDLE/site.tar.xz" ]; then
    SITE=$WORK/site
    # whole or not at all: a second command on the same machine finds it done
    if [ ! -e "$SITE.done" ]; then
        rm -rf "$SITE"
        if "$PYTHON" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="data")' \
            "$BUNDLE/site.tar.xz" "$SITE" >"$WORK/install.log" 2>&1; then
            echo "unpacked in $(($(date +%s) - BEGAN)) s" >>"$WORK/install.log"
            touch "$SITE.done"
        else
            echo "the packages could not be unpacked" | tee -a "$WORK/install.log" >&2
        fi
    fi
    # behind the repository, whose own packages come first
    export PYTHONPATH="$PYTHONPATH:$SITE"
fi

# OpenMM's CUDA platform wants NVRTC and cuFFT, which came with torch
LIBRARIES=$("$PYTHON" - <<'PY'
import sys
from pathlib import Path

found = []
for place in map(Path, sys.path):
    for folder in (*place.glob("nvidia/*/lib"), *place.glob("nvidia/*/lib64")):
        if any(folder.glob("libnvrtc.so*")) or any(folder.glob("libcufft.so*")):
            found.append(str(folder))
for folder in ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"):
    if Path(folder).is_dir():
        found.append(folder)
print(":".join(dict.fromkeys(found)))
PY
)
export LD_LIBRARY_PATH="${LIBRARIES}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

exec "$PYTHON" -m benchmarks.gpu --began "$BEGAN" --bundle "$BUNDLE" --work "$WORK" "$@"
