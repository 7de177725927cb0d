#!/bin/bash
# Trains, or goes on training, the weights starmd-mini-v3: benchmarks/training/starmd-mini-v3/train.sh RUN [SHARED_DATA]
# From the root of the repository. RUN is the folder of the run; a checkpoint.ckpt there is gone on with.
set -e
run=$1 shared=${2:-../shared/data}
mapfile -t exclude < <(python - <<'PYTHON'
import json
from pathlib import Path
from benchmarks.reference_augmentation import SPLIT, not_trained_on
split = json.loads(SPLIT.read_text())
known = {item["name"] for item in json.loads(Path("openmm_starmd/weights/starmd-mini-v3/training_data.json").read_text())["proteins"]}
judged = {item["name"] for item in split["choose"]}
# MD made since then
newer = {path.name for path in Path("benchmarks/data/training").iterdir() if path.is_dir()} - known - judged
print("\n".join(f"--exclude={name}" for name in [*not_trained_on(split), *sorted(newer)]))
PYTHON
)
exec python -m openmm_starmd.cli train "$shared/md" "$shared/md200" benchmarks/data benchmarks/data/training benchmarks/data/pool \
    --config benchmarks/training/starmd-mini-v3/recipe.json --split benchmarks/data/split.json "${exclude[@]}" \
    --output "$run" --resume --accelerator cpu
