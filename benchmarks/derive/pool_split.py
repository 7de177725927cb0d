"""Which proteins of the training pool are left out of training, fixed once: benchmarks/data/split.json.

    python -m benchmarks.derive.pool_split            # write benchmarks/data/split.json
    python -m benchmarks.derive.pool_split --check    # compare it with what would be written

Four choose checkpoints and settings, four are only reported. The eight were picked by hand for their folds and lengths;
this script computes what is said of them and refuses to write a split that breaks a promise: never seen by the bundled
weights, and under 40 % identical (:func:`openmm_starmd.release.identity.identity`) to each other, to every protein
that may be trained on, and to everything that may not.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.lib.paths import DATA, ROOT
from benchmarks.lib.results_page import write_json
from openmm_starmd.geometry.residues import THREE_TO_ONE, canonical_name
from openmm_starmd.model.weights import BUNDLED
from openmm_starmd.release.checks import training_data
from openmm_starmd.release.identity import LIMIT, identity

SHARED = ROOT.parent / "shared" / "data"
SPLIT = DATA / "split.json"
WEIGHTS = "starmd-mini-v2"

# shortest first: the order in which their MD is made
CHOOSE = ("HHH_rd4_0557_A", "5zng_A", "2xcj_A", "1j8k_A")
REPORT = ("HHH_rd1_0473_A", "3a4r_A", "1i8n_A", "d1h4vb1_B")

HELD_OUT = ("1l2y_A", "2op7_A", "2k28_A", "6okd_A", "6mrr_A")
NEAR_COPIES = ("trpcage_A", "2ysf_A", "2k1b_A")
# sequences that no file of shared/data holds; protein G's domain (1PGA) and GB3 (2OED)
KNOWN = {
    "GB1": "MTYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE",
    "GB3": "MQYKLVINGKTLKGETTTKAVDAETAEKAFKQYANDNGVDGVWTYDDATKTFTVTE",
}
FILES = {
    "BPTI": "rivals/bpti/start.pdb",
    "DHFR": "eval/dhfr_1rx2.pdb",
    "ubiquitin": "nasty/pdb1ubi_ca.pdb",
    "hen lysozyme": "nasty/1dpx.pdb",
}
ENTRIES = "1bl0 1c75 1ldj 1w0t 1z1v 2dkz 2hbp 2heo 2wg5 3a5z 3g7l 3luy 3oss 3udc 4a53 4jri 4o96".split()
NOT_TAKEN = {
    "1blu_A": "a ferredoxin without its two iron-sulphur clusters",
    "1mr1_D": "the SMAD4-binding domain of Ski without its zinc",
    "1a7g_E": "half of a dimeric barrel whose core is the interface",
    "1k6p_A": "half of HIV protease, whose termini pair in the dimer",
    "2cvi_A": "a dimer's half with a histidine tag of nine residues in no contact",
    "2xdg_A": "a receptor domain that wraps around its ligand: radius of gyration 1.2 times a globule's",
    "2va0_A": "99 residues, the dearest; α/β is there twice",
    "7k9b_B": "97 residues with a terminus of seven in no contact",
}


def structures(data: Path) -> dict[str, dict[str, str]]:
    """Rows of structures.csv, by name."""
    with (data / "structures.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def forbidden(data: Path, rows: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """One-letter sequences of what may not be trained on, by name; those that are not on this machine aside."""
    found = {name: rows[name]["sequence"] for name in (*HELD_OUT, *NEAR_COPIES)}
    found |= {name: row["sequence"] for name, row in rows.items() if row["pdb_id"].lower() in ENTRIES}
    return found | KNOWN | {name: sequence_of(data / path) for name, path in FILES.items()}


def sequence_of(path: Path) -> str:
    """The one-letter sequence of the amino acids of a PDB file that have a CA, under whatever name."""
    import mdtraj

    topology = mdtraj.load(str(path), standard_names=False).topology
    names = [r.name for r in topology.residues if any(a.name == "CA" for a in r.atoms)]
    standard = [canonical_name(name) for name in names]
    return "".join(THREE_TO_ONE[name] for name in standard if name)


def kin(sequence: str, others: Mapping[str, str]) -> list[tuple[float, str]]:
    """Identity with each of the others and its name, the nearest first."""
    return sorted(((identity(sequence, other), name) for name, other in others.items()), reverse=True)


def fold(helix: float, strand: float) -> str:
    """A word for a fold, of its shares of helix and strand."""
    if helix >= 0.4 and strand <= 0.1:
        return "α"
    if strand >= 0.3 and strand >= 2 * helix:
        return "β"
    return "α/β"


def entry(
    name: str, rows: Mapping[str, Mapping[str, str]], groups: Mapping[str, Mapping[str, str]], data: Path
) -> dict[str, Any]:
    """What split.json says of a left-out protein; its atoms are counted by building its all-atom model."""
    row = rows[name]
    sequence, helix, strand = row["sequence"], float(row["frac_helix"]), float(row["frac_strand"])
    nearest = {}
    for group, others in groups.items():
        share, other = kin(sequence, {key: value for key, value in others.items() if key != name})[0]
        nearest[group] = [round(share, 3), other]
    return {
        "name": name,
        "residues": len(sequence),
        "atoms": atoms_of(data / "structures" / f"{name}.pdb"),
        "class": fold(helix, strand),
        "helix": helix,
        "strand": strand,
        "disulfides": int(row["disulfides"]),
        "sequence": sequence,
        "seen_by_v2": name in groups["starmd-mini-v2"],
        "highest_identity": nearest,
    }


def atoms_of(path: Path) -> int:
    """How many atoms a structure has in amber14 and OBC2; raises where it does not build."""
    from openmm.app import PDBFile

    from openmm_starmd.classical.model import ClassicalModel
    from openmm_starmd.classical.settings import ClassicalSettings
    from openmm_starmd.protein.protein import Protein

    pdb = PDBFile(str(path))
    protein = Protein.from_openmm(pdb.topology, pdb.positions)
    model = ClassicalModel(protein, ClassicalSettings(platform="CPU", properties={"Threads": "1"}))
    return int(model.simulation.system.getNumParticles())


def split(data: Path) -> dict[str, Any]:
    """The content of split.json.

    Parameters
    ----------
    data : Path
        The shared data.

    Raises
    ------
    ValueError
        If a promise is broken; says which.
    """
    rows = structures(data)
    banned = forbidden(data, rows)
    seen = {p["name"]: p["sequence"] for p in (training_data(BUNDLED / WEIGHTS) or {})["proteins"]}
    left_out = {name: rows[name]["sequence"] for name in (*CHOOSE, *REPORT)}
    related = {
        name: max(kin(row["sequence"], banned))
        for name, row in rows.items()
        if name not in banned and name not in left_out
    }
    barred = {name: found for name, found in related.items() if found[0] > LIMIT}
    pool = {name: row["sequence"] for name, row in rows.items() if name not in {*banned, *barred, *left_out}}
    near = {name: max(kin(sequence, left_out)) for name, sequence in pool.items()}
    also = {name: found for name, found in near.items() if found[0] >= LIMIT}
    pool = {name: sequence for name, sequence in pool.items() if name not in also}
    groups = {"pool": pool, "left out": left_out, "not to be trained on": banned, WEIGHTS: seen}
    entries = {name: entry(name, rows, groups, data) for name in left_out}
    promise(entries)

    def listed(found: Mapping[str, tuple[float, str]]) -> list[dict[str, Any]]:
        return [
            {"name": name, "identity": round(share, 3), "with": other, "seen_by_v2": name in seen}
            for name, (share, other) in sorted(found.items())
        ]

    return {
        "about": "Proteins of the training pool that are never trained on. `choose`: checkpoints and settings may be "
        "chosen on them; `report`: only reported. Fixed once, by benchmarks/derive/pool_split.py; each list in the "
        "order in which its MD is made.",
        "identity": f"identical residues of the best alignment over the shorter length "
        f"(openmm_starmd.release.identity); each of the eight is under {LIMIT:g} to all in each group, its nearest is "
        "named in highest_identity",
        "choose": [entries[name] for name in CHOOSE],
        "report": [entries[name] for name in REPORT],
        "also_left_out": listed(also),
        "not_to_be_trained_on": {
            "compared": sorted(banned),
            "not compared, no sequence on this machine": [
                code for code in ENTRIES if code not in {row["pdb_id"].lower() for row in rows.values()}
            ],
            "kin": listed(barred),
        },
        "not_taken": NOT_TAKEN,
        "pool": sorted(pool),
    }


def promise(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a split that does not hold what it promises."""
    for name, found in entries.items():
        if found["seen_by_v2"]:
            raise ValueError(f"{name} was trained on by {WEIGHTS}; leave out another")
        for group, (share, other) in found["highest_identity"].items():
            if share >= LIMIT:
                raise ValueError(f"{name} is {100 * share:.0f} % identical to {other} ({group}); leave out another")
    for names in (CHOOSE, REPORT):
        lengths = [entries[name]["residues"] for name in names]
        if lengths != sorted(lengths) or len({entries[name]["class"] for name in names}) < 3:
            raise ValueError(f"{', '.join(names)}: shortest first, and at least three folds")


def main() -> None:
    """Write split.json, or compare it with what would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="the shared data")
    parser.add_argument("--output", type=Path, default=SPLIT)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    if not (arguments.data / "structures.csv").is_file():
        sys.exit(f"no structures.csv in {arguments.data}; give its folder with --data")
    content = split(arguments.data)
    if not arguments.check:
        write_json(arguments.output, content, ensure_ascii=False)
    elif json.loads(arguments.output.read_text()) != content:
        sys.exit(f"{arguments.output} is not what this script writes")
    for use in ("choose", "report"):
        for found in content[use]:
            near = ", ".join(f"{100 * share:.0f} % {other}" for share, other in found["highest_identity"].values())
            print(f"{use}  {found['name']}  {found['residues']} residues  {found['class']}  nearest: {near}")
    also = ", ".join(found["name"] for found in content["also_left_out"])
    print(f"left out with them: {also or 'none'}; pool: {len(content['pool'])} proteins")


if __name__ == "__main__":
    main()
