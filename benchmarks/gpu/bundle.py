"""``make gpu-bundle``: everything that a lent machine has not got, in one ignored folder, small enough to travel.

    python -m benchmarks.gpu.bundle [--shared ../shared] [--proteins 28]

Packages for that machine's Python 3.12; models, with hydrogens and minimised, of the proteins that MD is to be made of;
their structures; MD to train on that is not in the repository; weights on request. What is dear to make is kept in
.gpu-cache, so that a second call is quick. With the tracked files it may weigh 60 MiB: what travels is the working
tree, and 64 MiB of it at most.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.plan import PLANS, read_plan
from benchmarks.gpu.stage import never_trained_on
from benchmarks.lib.paths import DATA, ROOT
from benchmarks.lib.results_page import write_json
from openmm_starmd.files.writing import replacing, write_bytes, write_text

MEBI = 2**20
LIMIT = 60 * MEBI
BUNDLE, CACHE = ROOT / ".gpu", ROOT / ".gpu-cache"
SITE = "site.tar.xz"
BINARY = ("openmm==8.6.1", "openmm_cuda_13==8.6.1", "mdtraj")
PURE = ("pdbfixer",)  # no wheel in the registry
PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
TARGET = ("--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:")
TARGET += tuple(word for name in PLATFORMS for word in ("--platform", name))
SHORTEST, LONGEST = 35, 100
# device time that a start takes before the first command, and what is kept back before the lease ends
START, KEPT = 120, 25


def wheels(folder: Path) -> list[Path]:
    """Wheels for the lent machine, one of each package, from the registry or from an earlier call."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*BINARY, *PURE):
        stem = name.partition("==")[0].replace("-", "_").lower()
        if any(path.name.lower().startswith(f"{stem}-") for path in folder.glob("*.whl")):
            continue
        command = ["wheel", "-w"] if name in PURE else ["download", *TARGET, "-d"]
        print(f"fetching {name}", flush=True)
        subprocess.run([*PIP, *command, str(folder), "--quiet", "--no-deps", name], check=True)
    return sorted(folder.glob("*.whl"))


def site(found: Sequence[Path], archive: Path) -> None:
    """Wheels as they would be installed on the lent machine, in one archive: 11 MiB less to carry than the wheels."""
    content = "\n".join(path.name for path in found)
    listing = archive.with_suffix(".txt")
    if archive.exists() and listing.exists() and listing.read_text() == content:
        return
    with tempfile.TemporaryDirectory() as folder:
        install = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target", folder, *TARGET]
        # pip holds a file's wish for Python 3.12 against the one it runs in
        install += ["--ignore-requires-python"]
        subprocess.run([*PIP, *install, *map(str, found)], check=True)
        for name in ("tests", "docs", "examples", "bin"):  # of pdbfixer and mdtraj, and in the way of our own
            shutil.rmtree(Path(folder) / name, ignore_errors=True)
        print("squeezing the wheels", flush=True)
        with replacing(archive) as temporary, tarfile.open(temporary, "w:xz", preset=4) as file:
            file.add(folder, arcname=".")
    write_text(listing, content)


def picoseconds(trees: Sequence[Path]) -> dict[str, float]:
    """MD there is of each protein, in all of these trees."""
    import mdtraj

    found: dict[str, float] = {}
    for tree in trees:
        for path in sorted(tree.glob("*/*_prod_R*_fit.xtc")):
            with mdtraj.formats.XTCTrajectoryFile(str(path)) as file:
                times = file.read()[1]
            # the first frame lies one interval after the start
            made = float(times[-1] - times[0] + times[1] - times[0]) if len(times) > 1 else 0.0
            found[path.parent.name] = found.get(path.parent.name, 0.0) + made
    return found


def choose(shared: Path, count: int) -> list[str]:
    """Proteins to make MD of: the left-out ones first, then those of the pool that have least, long ones before short.

    Held-out proteins, and all that may not be trained on, are not in the pool. Those that were not good enough to be
    left out (halves of dimers, domains without their metal) come last.
    """
    split = json.loads((DATA / "split.json").read_text())
    first = [item["name"] for group in ("choose", "report") for item in split[group]]
    with (shared / "structures.csv").open(newline="") as file:
        residues = {row["name"]: int(row["n_residues"]) for row in csv.DictReader(file)}
    made = picoseconds([shared / "md", shared / "md200", DATA / "training", DATA])
    forbidden = set(never_trained_on())
    pool = [name for name in split["pool"] if SHORTEST <= residues.get(name, 0) <= LONGEST and name not in forbidden]
    # CPUs made MD of short ones, for which a GPU is not needed
    pool.sort(key=lambda name: (name in split["not_taken"], made.get(name, 0.0), -residues[name], name))
    return [*first, *pool][:count]


def prepared(paths: Sequence[Path], cache: Path, target: Path) -> None:
    """Models of these structures, from `cache` where they are there, and in `target`, compressed."""
    from openmm_starmd.classical.many import make_data

    failed = make_data(paths, cache, 0, report=lambda line: print(line, flush=True))
    if failed:
        raise ValueError(f"no models of {', '.join(failed)}: what failed is said above; call again to go on")
    for path in paths:
        name = path.stem
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted((cache / name).glob(f"{name}*")):
            if file.name.endswith(".model.pdb"):
                write_bytes(folder / f"{file.name}.gz", gzip.compress(file.read_bytes(), mtime=0))
            else:
                shutil.copyfile(file, folder / file.name)


def carried_md(shared: Path, target: Path) -> None:
    """MD to train on that is not in the repository, without what may not be."""
    forbidden = set(never_trained_on())
    # of the left-out proteins settings are chosen on, MD serves for validation
    split = json.loads((DATA / "split.json").read_text())
    wanted = {item["name"] for item in split["choose"]} | set(split["pool"]) - forbidden
    for tree in ("md", "md200"):
        for folder in sorted((shared / tree).glob("*")):
            if folder.name in wanted and folder.is_dir():
                shutil.copytree(folder, target / tree / folder.name)


def travelling(root: Path) -> int:
    """Bytes of the working tree that travel besides what is carried: tracked files, and untracked ones not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    paths = {root / name.decode() for name in listed if name}
    return sum(path.lstat().st_size for path in paths if path.is_file() or path.is_symlink())


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def weighed(root: Path, bundle: Path, limit: int = LIMIT) -> str:
    """What the parts weigh and how much is left; a ValueError if it is too much."""
    tree, carried = travelling(root), size_of(bundle)
    parts = {path.name: size_of(path) if path.is_dir() else path.stat().st_size for path in sorted(bundle.iterdir())}
    text = ", ".join(f"{name} {size / MEBI:.1f}" for name, size in parts.items())
    total = tree + carried
    said = (
        f"working tree {tree / MEBI:.1f} MiB, bundle {carried / MEBI:.1f} MiB ({text}): {total / MEBI:.1f} MiB of "
        f"{limit / MEBI:.0f}"
    )
    if total > limit:
        raise ValueError(
            f"{said}: {(total - limit) / MEBI:.1f} MiB too much. Fewer --proteins, no --weights or --no-md, or "
            "less MD among the tracked files"
        )
    return f"{said}, {(limit - total) / MEBI:.1f} MiB left"


def commands() -> str:
    """The calls of the tool `run`, as they are to be given."""
    first, second = (read_plan(PLANS / f"{name}.json") for name in ("first", "second"))
    after = 900 - START - first.seconds
    lines = [
        "On a task that was lent a machine (the tool status: can_start_another), in this order:",
        "1. run:",
        """     command: bash benchmarks/gpu/run.sh --plan first --output "$OUT\"""",
        '     carry: [".gpu"]',
        f"     timeout_s: {first.seconds + 30:.0f}",
        "2. copy the files from files_at elsewhere; the tool status says budget_left_s. Within 30 s, while the machine",
        f"   and its MD are still there (about {after:.0f} s should be left), S being budget_left_s - {KEPT}:",
        "   run:",
        """     command: bash benchmarks/gpu/run.sh --plan second --output "$OUT" --seconds S""",
        '     carry: [".gpu"]',
        f"     timeout_s: S + {KEPT - 10}",
        f"   (the plan is made for {second.seconds:.0f} s; under 120 s leave it)",
        "3. give_back. Untar md_*.tar below benchmarks/data/training; left-out proteins below benchmarks/data.",
    ]
    return "\n".join(lines)


def assemble(shared: Path, count: int, weights: Sequence[Path], with_md: bool) -> list[str]:
    """Make the bundle anew, of what the cache has and what has to be made; the proteins that MD is to be made of."""
    shutil.rmtree(BUNDLE, ignore_errors=True)
    BUNDLE.mkdir()
    site(wheels(CACHE / "wheels"), CACHE / SITE)
    shutil.copyfile(CACHE / SITE, BUNDLE / SITE)
    names = choose(shared, count)
    structures = [shared / "structures" / f"{name}.pdb" for name in names]
    prepared(structures, CACHE / "models", BUNDLE / "models")
    (BUNDLE / "structures").mkdir()
    for path in structures:
        shutil.copyfile(path, BUNDLE / "structures" / path.name)
    write_json(BUNDLE / "list.json", {"proteins": names})
    if with_md:
        carried_md(shared, BUNDLE / "stores")
    for folder in weights:
        shutil.copytree(folder, BUNDLE / "weights" / folder.name)
    return names


def main() -> None:
    """Make the bundle, weigh it, say what to do with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="with data/structures and data/md")
    parser.add_argument("--proteins", type=int, default=28, help="to make MD of, the left-out ones first")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="folders of weights to take along")
    parser.add_argument("--no-md", action="store_true", help="no MD but the repository's own")
    arguments = parser.parse_args()
    shared = arguments.shared / "data"
    missing = [name for name in ("structures", "structures.csv") if not (shared / name).exists()]
    if missing:
        parser.error(f"{shared} has no {' or '.join(missing)}: make gpu-bundle SHARED=DIR, with DIR/data/structures")
    try:
        names = assemble(shared, arguments.proteins, arguments.weights, not arguments.no_md)
        print(f"{len(names)} proteins: {', '.join(names)}")
        print(weighed(ROOT, BUNDLE))
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(commands())


if __name__ == "__main__":
    main()
