"""Compare the one reader of residues with the two that it replaced, bit for bit, over a folder of structures.

Both readings of every file, OpenMM's and mdtraj's, are dumped by the old code in one process and by the new code in
another: arrays to the bit, texts, bonds, warnings, and the message where a reader refuses.

    git worktree add /tmp/old 1a51985
    python -m benchmarks.derive.same_residues --old /tmp/old ../shared/data/{structures,multichain,nasty}/*
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit
from openmm.app.internal.unitcell import reducePeriodicBoxVectors

from openmm_starmd.data.description import describe
from openmm_starmd.protein import Protein

CIF, PDB, OTHER = (".cif", ".mmcif", ".pdbx"), (".pdb",), (".gro",)
FEATURES = ("residue_types", "residue_index", "chain_index", "bonded", "torsions")


def by_openmm(path: Path) -> dict[str, Any]:
    """What Protein reads of a file."""
    if path.suffix in OTHER:
        frames = mdtraj.load(str(path))
        topology = frames.topology.to_openmm()
        if frames.unitcell_vectors is not None:
            box = [openmm.Vec3(*row) for row in frames.unitcell_vectors[0].tolist()] * unit.nanometer
            topology.setPeriodicBoxVectors(reducePeriodicBoxVectors(box))
        positions = frames.xyz[0].astype(float) * unit.nanometer
    else:
        file = app.PDBxFile(str(path)) if path.suffix in CIF else app.PDBFile(str(path))
        topology, positions = file.topology, file.positions
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        protein = Protein.from_openmm(topology, positions)
    arrays = (*FEATURES, "positions", "backbone", "torsion_mask")
    return {name: getattr(protein, name) for name in arrays} | {
        "sequence": protein.sequence,
        "dropped": protein.dropped,
        "labels": [protein.residue_label(i) for i in range(protein.length)],
        "atoms": [
            (a.residue.index, a.residue.name, a.residue.chain.id, a.name, a.element.symbol)
            for a in protein.topology.atoms()
        ],
        "bonds": [(a.index, b.index) for a, b in protein.topology.bonds()],
        "warnings": [str(entry.message) for entry in caught if entry.category is UserWarning],
    }


def by_mdtraj(path: Path) -> dict[str, Any]:
    """What a description holds of a file."""
    description: Any = describe(mdtraj.load(str(path))[0])
    residues = getattr(description, "residues", None)
    own = description if residues is None else residues
    features = description.features
    return {f"features.{name}": getattr(features, name).numpy() for name in FEATURES} | {
        "features.translations": features.reference.translations.numpy(),
        "features.rotations": features.reference.rotations.numpy(),
        "atoms": own.atoms,
        "owner": own.owner,
        "backbone_atoms": description.backbone if residues is None else residues.backbone_atoms,
        "bonds": description.bonds,
        **{name: getattr(description, name) for name in ("quartets", "torsion_mask", "structure", "torsions")},
        "names": own.names,
        "numbers": own.numbers,
        "sequence": description.sequence,
        "dropped": own.dropped,
    }


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {"OpenMM": by_openmm, "mdtraj": by_mdtraj}


def read_all(files: list[Path]) -> dict[tuple[str, Path], dict[str, Any] | str]:
    """By reader and file: what was read, or the message of the refusal."""
    found: dict[tuple[str, Path], dict[str, Any] | str] = {}
    for path in files:
        for reader, read in READERS.items():
            try:
                found[reader, path] = read(path)
            except Exception as error:
                found[reader, path] = f"{type(error).__name__}: {error}"
    return found


def differences(old: dict[str, Any] | str, new: dict[str, Any] | str) -> list[str]:
    """Names of what differs; arrays by type, shape and bits."""
    if isinstance(old, str) or isinstance(new, str):
        return [] if isinstance(old, str) and old == new else [f"{str(old)[:200]!r} was, {str(new)[:200]!r} is"]
    return [
        name
        for name in old.keys() | new.keys()
        if not (
            (old[name].dtype, old[name].shape, old[name].tobytes())
            == (new[name].dtype, new[name].shape, new[name].tobytes())
            if isinstance(old[name], np.ndarray)
            else old[name] == new[name]
        )
    ]


def dumped_by(code: Path, files: list[Path], output: Path) -> dict[tuple[str, Path], dict[str, Any] | str]:
    """What the code in a folder reads, in a process of its own."""
    command = [sys.executable, __file__, "--dump", str(output), *map(str, files)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(code)}, cwd=output.parent)
    module, found = pickle.loads(output.read_bytes())
    if not Path(module).is_relative_to(code.resolve()):
        raise RuntimeError(f"{module} was imported in place of the code in {code}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--old", type=Path, help="checkout of the code to compare with")
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    files = [path.resolve() for path in options.files if path.suffix in CIF + PDB + OTHER]
    if options.dump:
        import openmm_starmd

        module = str(Path(openmm_starmd.__file__).resolve())
        options.dump.write_bytes(pickle.dumps((module, read_all(files))))
        return
    with tempfile.TemporaryDirectory() as folder:
        before = dumped_by(options.old, files, Path(folder) / "old.pickle")
        after = dumped_by(Path(__file__).parents[2], files, Path(folder) / "new.pickle")
    print("| reader | files | equal | refused alike | differ |\n|---|---|---|---|---|")
    unequal = {key: found for key in before if (found := differences(before[key], after[key]))}
    for reader in READERS:
        keys = [key for key in before if key[0] == reader]
        same = [key for key in keys if key not in unequal]
        refused = sum(isinstance(before[key], str) for key in same)
        print(f"| {reader} | {len(keys)} | {len(same) - refused} | {refused} | {len(keys) - len(same)} |")
    for (reader, path), names in unequal.items():
        print(f"{reader} {path.name}: {', '.join(names)}")
    for (reader, path), read in before.items():
        if isinstance(read, str) and (reader, path) not in unequal:
            print(f"{reader} refuses {path.name}: {read[:110]}")


if __name__ == "__main__":
    main()
