"""Stage: what machine this is, and whether torch and OpenMM find its GPU."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

from benchmarks.gpu.stage import read_arguments
from benchmarks.lib.results_page import write_json

PACKAGES = ("torch", "numpy", "scipy", "openmm", "mdtraj", "lightning", "triton", "pytest", "typer", "safetensors")


def main() -> None:
    """Write work/machine.json; fail if something is missing."""
    given = read_arguments(__doc__ or "")
    found: dict[str, object] = {"packages": {name: _version(name) for name in PACKAGES}}
    problems = []
    try:
        smi = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20, check=False)
        found["nvidia_smi"] = smi.stdout.splitlines()[:20]
    except (OSError, subprocess.TimeoutExpired) as error:
        found["nvidia_smi"] = [str(error)]
    try:
        import torch

        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            found["gpu"] = {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / 2**30, 1),
                "multiprocessors": properties.multi_processor_count,
                "cuda": torch.version.cuda,
            }
        elif given.device == "cuda":
            problems.append("torch sees no CUDA device")
    except Exception as error:  # what is wrong is what is asked
        problems.append(f"torch: {error}")
    try:
        import openmm

        count = openmm.Platform.getNumPlatforms()
        found["openmm_platforms"] = [openmm.Platform.getPlatform(k).getName() for k in range(count)]
        found["openmm_failures"] = [str(line)[:300] for line in openmm.Platform.getPluginLoadFailures()]
        # a platform that loads may still fail to compile a kernel
        system = openmm.System()
        system.addParticle(1.0)
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(given.platform)
        )
        context.setPositions([openmm.Vec3(0, 0, 0)])
        context.getIntegrator().step(1)
    except Exception as error:
        problems.append(f"OpenMM's {given.platform}: {error}")
    found["problems"] = problems
    write_json(given.work / "machine.json", found)
    for line in (*map(str, found.items()), *problems):
        print(line)
    sys.exit(bool(problems))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not there"


if __name__ == "__main__":
    main()
