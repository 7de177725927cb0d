"""How much of a network's correction to the expected frame to keep at each noise level, by proteins left out.

    python -m benchmarks.derive.correction RUN/weights --data ../shared/data/md200 benchmarks/data/pool

A network that has learned its training MD by heart corrects the posterior of its prior too much where noise is high.
The share of the correction that is best for proteins of ``choose`` (benchmarks/data/split.json) is a ratio of products,
<(truth - estimate) . (network - estimate)> / <|network - estimate|²>, at each τ, every protein and stride weighed by
its last frame's squared error. Prints what ``correction`` in config.json should be, and with ``--write`` writes it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.reference_augmentation import SPLIT, left_out
from openmm_starmd.model.weights import load_weights, save_weights
from openmm_starmd.training.denoising import DenoisingTest, predicted
from openmm_starmd.training.settings import DenoisingSettings

TAUS = (0.06, 0.2, 0.6, 1.0)
"""Lower ones decide whether chains hold together, which this error does not see; there all of it is kept."""
STRIDES = (2.0, 10.0, 20.0, 50.0, 100.0)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="write it to the weights' config.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    split = json.loads(SPLIT.read_text())
    judged = left_out(arguments.data, {**split, "report": []})
    weights = load_weights(arguments.weights)
    network = weights.network
    network.config = replace(network.config, correction=())
    settings = DenoisingSettings(taus=TAUS, strides=STRIDES, windows=arguments.windows, frames=6)
    test = DenoisingTest(judged, settings, network.config)
    found = []
    for tau in TAUS:
        along, square = 0.0, 0.0
        for windows in test.windows:
            prediction = predicted(network, windows, tau, settings.seed)
            start = prediction.estimate.rigids.translations.double()
            correction = prediction.rigids.translations.double() - start
            wanted = windows.truth.double() - start
            weight = 1 / float((windows.last_frame.double() - windows.truth.double()).square().mean())
            along += weight * float((wanted * correction).mean())
            square += weight * float(correction.square().mean())
        found.append((tau, along / max(square, 1e-30)))
        print(f"τ {tau:g}: {found[-1][1]:.3f}", flush=True)
    shares = tuple((tau, 1.0 if tau == TAUS[0] else round(min(1.0, max(0.0, share)), 3)) for tau, share in found)
    print(f"correction: {json.dumps(shares)}")
    if arguments.write:
        save_weights(weights.path.parent, network, replace(network.config, correction=shares))


if __name__ == "__main__":
    main()
