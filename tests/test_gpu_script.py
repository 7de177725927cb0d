"""The GPU script: time boxes, limits, packing and bundle on small things; every stage end to end on the CPU (slow)."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import bundle, paper, results, stage, tests, together, training
from benchmarks.gpu.__main__ import Runner, table
from benchmarks.gpu.boxes import run_box, tail
from benchmarks.gpu.plan import MODULES, PLANS, Plan, Stage, read_plan
from benchmarks.lib import throughput_measure
from benchmarks.lib.drawing import HELD_OUT
from benchmarks.lib.paths import ROOT

SMALL = results.Limits(files=4, file_bytes=2000, bytes=results.MEBI + 3000)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_box_tells_how_a_process_ended(tmp_path):
    log = tmp_path / "log"
    assert run_box(python("print('fine')"), log, 60, 1).status == "done" and tail(log) == ["fine"]
    ended = run_box(python("print('bad'); raise SystemExit(3)"), log, 60, 1)
    assert ended.status == "failed" and ended.returncode == 3 and tail(log) == ["bad"]


def test_box_ends_what_does_not_end_and_what_that_started(tmp_path):
    # deaf to SIGTERM, and so is its child; a shell is ready at once, also on a busy machine
    log, calls = tmp_path / "log", []
    code = "trap '' TERM; sleep 600 & echo $!; wait"
    ended = run_box(["sh", "-c", code], log, 5, 0.3, every=0.5, meanwhile=lambda: calls.append(1))
    assert ended.status == "killed" and calls
    child = int(tail(log)[0])
    for _ in range(200):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":  # dead, and not yet fetched by whoever adopted it
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child of a stage outlived it")
    assert run_box(["sleep", "600"], log, 1, 60).status == "stopped"


def test_tail_of_a_progress_bar(tmp_path):
    (tmp_path / "log").write_bytes(b"a\n 10%\r 20%\r100%\nend\xff\n")
    assert tail(tmp_path / "log") == ["a", "100%", "end\N{REPLACEMENT CHARACTER}"]
    assert tail(tmp_path / "log", 1) == ["end\N{REPLACEMENT CHARACTER}"] and tail(tmp_path / "none") == []


def test_plans_fit_the_commands_they_are_made_for():
    for path in PLANS.glob("*.json"):
        plan = read_plan(path)
        assert {s.module for s in plan.stages} <= set(MODULES)
    first, second = (read_plan(PLANS / f"{name}.json") for name in ("first", "second"))
    # ten minutes a command; both, the machine's start and what is kept back within fifteen
    assert first.seconds + 30 <= 600
    assert first.seconds + second.seconds + bundle.START <= 900
    assert next(s for s in first.stages if s.name == "tests").seconds <= 120
    assert {s.module for s in (*first.stages, *second.stages)} == set(MODULES)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is no plan"),
        ({"seconds": 5}, "is no plan"),
        ({"seconds": 5, "stages": [{"name": "check", "seconds": 6}]}, "want 6 s, and the plan has 5"),
        ({"seconds": 5, "stages": [{"name": "chekc", "seconds": 1}]}, "unknown stages chekc"),
        ({"seconds": 5, "stages": [{"name": "check", "seconds": 1}] * 2}, "names check twice"),
        ({"seconds": 5, "stages": [{"name": "check", "seconds": 0}]}, "must be positive"),
    ],
)
def test_plans_that_cannot_be_run(tmp_path, content, message):
    path = tmp_path / "plan.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_plan(path)
    with pytest.raises(ValueError, match="first, rehearsal, second"):
        read_plan(tmp_path / "none.json")


def test_a_plan_for_other_seconds():
    plan = Plan(100, [Stage("a", "check", 20), Stage("b", "check", 60, stretch=True)])
    assert [s.seconds for s in plan.scaled(40).stages] == [10, 30] and plan.scaled(40).seconds == 40
    assert [s.seconds for s in plan.scaled(400).stages] == [20, 60] and plan.scaled(400).stages[1].stretch


def fake_stage(folder: Path, name: str, code: str, seconds: float = 60.0, stretch: bool = False) -> Stage:
    """A stage of a few lines, which find their arguments in `given`."""
    package = folder / "fakes"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    head = "from benchmarks.gpu.stage import read_arguments\ngiven = read_arguments('fake', number=0)\n"
    (package / f"{name}.py").write_text(head + code)
    return Stage(name, f"fakes.{name}", seconds, stretch, {"number": 7})


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    (tmp_path / "out").mkdir()
    return tmp_path


def run(folder: Path, stages: list[Stage], seconds: float = 600, **settings) -> dict:
    places = (folder / "bundle", folder / "out", folder / "work")
    return Runner(Plan(seconds, stages), *places, "cpu", grace=0.5, **settings).run()


def test_a_failing_stage_does_not_stop_the_next_and_boxes_hold(fakes):
    stages = [
        fake_stage(fakes, "breaks", "raise RuntimeError('no such luck')"),
        fake_stage(fakes, "sleeps", "import time; time.sleep(600)", 5),
        fake_stage(fakes, "works", "(given.output / 'out.txt').write_text(f'{given.options} {given.seconds > 1}')"),
    ]
    summary = run(fakes, stages)
    assert [(s["name"], s["status"]) for s in summary["stages"]] == [
        ("breaks", "failed"),
        ("sleeps", "stopped"),
        ("works", "done"),
    ]
    assert "no such luck" in summary["stages"][0]["error"]
    assert summary["stages"][1]["error"] == "its 4 s were over"
    assert (fakes / "out" / "out.txt").read_text() == "{'number': 7} True"
    assert json.loads((fakes / "out" / "summary.json").read_text()) == summary
    assert summary["status"] == "done" and list(summary["files"]) == ["out.txt"]
    shown = table(summary)
    assert "no such luck" in shown and "out.txt: 0.00 MiB" in shown


def test_time_left_over_goes_to_a_stage_that_stretches_and_no_stage_begins_without_any(fakes):
    code = "(given.output / 'seconds').write_text(str(given.seconds))"
    summary = run(fakes, [fake_stage(fakes, "quick", "pass", 5), fake_stage(fakes, "long", code, 10, True)], 200)
    assert 60 < float((fakes / "out" / "seconds").read_text()) < 200
    summary = run(fakes, [fake_stage(fakes, "late", "pass", 30)], 30, began=time.time() - 29)
    assert summary["stages"] == [
        {"name": "late", "status": "skipped", "error": "no time left", "seconds_allowed": pytest.approx(-4.5, abs=2)}
    ]


def test_results_stay_within_what_comes_back(fakes):
    code = (
        "for k in range(5): (given.output / f'part_{k}').write_text('x' * 100)\n"
        "(given.output / 'big').write_text('x' * 3000); (given.output / 'a b').write_text('x')\n"
        "(given.output / 'folder').mkdir()"
    )
    summary = run(fakes, [fake_stage(fakes, "many", code)], limits=SMALL)
    assert sorted(p.name for p in (fakes / "out").iterdir()) == ["part_0", "part_1", "part_2", "summary.json"]
    assert summary["left_out"] == [
        "a b (its name has characters that do not travel)",
        "big (0.0 MiB)",
        "folder (not a whole file)",
        "part_3 (more than 4 files)",
        "part_4 (more than 4 files)",
    ]
    assert (fakes / "work" / "left_out" / "big").stat().st_size == 3000


def test_results_on_another_file_system_than_the_work_folder(tmp_path, monkeypatch):
    def rename(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "big").write_text("x" * 3000)
    (tmp_path / "out" / "small").write_text("x")
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, rename)
    assert results.enforce(tmp_path / "out", SMALL, tmp_path / "aside") == ["big (0.0 MiB)"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["small"]
    assert (tmp_path / "aside" / "big").read_text() == "x" * 3000


def test_packing_takes_the_most_valuable_first_and_whole(tmp_path):
    sizes = {"first": 20_000, "second": 32_000, "third": 13_000, "huge": 90_000, "last": 400}
    groups = []
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(os.urandom(size))
        groups.append((name, [(tmp_path / name, f"tree/{name}")]))
    out = tmp_path / "out"
    out.mkdir()
    left_out = results.pack(groups, out, "md", 2, 50_000)
    assert left_out == ["huge (0.1 MiB)"]
    found = {}
    for path in sorted(out.iterdir()):
        assert path.stat().st_size <= 50_000
        with tarfile.open(path) as archive:
            found[path.name] = archive.getnames()
    assert found == {"md_1.tar": ["tree/first", "tree/third", "tree/last"], "md_2.tar": ["tree/second"]}


def test_md_is_packed_in_the_wanted_order_without_what_is_half_written(tmp_path):
    tree = stage.made_here(tmp_path)
    for name in ("b", "a"):
        for folder in (tree / name, tree / "fine" / name):
            folder.mkdir(parents=True)
            (folder / f"{name}_prod_R1_fit.xtc").write_bytes(b"x")
        (tree / name / f"{name}.model.pdb.gz").write_bytes(b"x")
        (tree / name / f".partial-1-{name}.xtc").write_bytes(b"x")
    (tree / "c").mkdir()  # prepared, never run
    (tmp_path / together.ORDER).write_text(json.dumps({"order": ["b", "c", "a"]}))
    assert together.collect(tmp_path, tmp_path, {}) == {"proteins": 2, "left_out": []}
    with tarfile.open(tmp_path / "md_1.tar") as archive:
        assert archive.getnames() == [f"{place}{n}/{n}_prod_R1_fit.xtc" for n in "ba" for place in ("", "fine/")]


def test_nothing_that_may_not_be_trained_on_is():
    forbidden = stage.never_trained_on()
    assert {*HELD_OUT, "HHH_rd4_0557_A", "d1h4vb1_B", "2gu3_A", "2ysf_A", "trpcage_A"} <= set(forbidden)
    assert "2beg_A" not in forbidden and len(set(forbidden)) == len(forbidden)


def test_the_paper_form_takes_the_longest_runs_that_may_be_trained_on(tmp_path):
    chosen = paper.find_proteins(tmp_path, [], 400.0)
    assert {name for name, _ in chosen} & set(stage.never_trained_on()) == set() and len(chosen) == 2
    with pytest.raises(SystemExit, match="no two proteins"):
        paper.find_proteins(tmp_path, [], 1e9)


def test_variants_of_the_paper_form():
    recipe = paper.recipe_of("without-separable", paper.DEFAULTS, 400)
    assert recipe.model.attention == "separable" and not recipe.model.anchored
    assert recipe.objective.context_probability == 0 and recipe.model.context_tau == 0
    assert recipe.model.stride_default == 100 and recipe.steps == 400
    recipe.model.check_stride(100.0, "it")
    assert paper.recipe_of("with-joint", paper.DEFAULTS, 400).objective.context_probability > 0


def test_files_with_cuda_tests_are_found():
    files = tests.test_files()
    assert "tests/model/test_attention.py" in files and all((ROOT / name).exists() for name in files)
    assert "tests/test_throughput.py" not in files


def test_choice_of_proteins(tmp_path):
    split = json.loads((ROOT / "benchmarks" / "data" / "split.json").read_text())
    rows = ["name,n_residues", *(f"{name},50" for name in split["pool"]), "1l2y_A,50"]
    (tmp_path / "structures.csv").write_text("\n".join(rows))
    chosen = bundle.choose(tmp_path, 20)
    left_out = [p["name"] for group in ("choose", "report") for p in split[group]]
    assert chosen[:8] == left_out and len(chosen) == 20 and not set(chosen[8:]) & set(stage.never_trained_on())
    # there are 600 ps of it, and most of the pool has none
    assert "1vii_A" not in chosen and "1vii_A" in bundle.choose(tmp_path, 500)


def test_md_that_is_not_there_or_of_one_frame_only(tmp_path):
    import mdtraj

    for name, times in (("a", [3.0]), ("b", [2.0, 4.0, 6.0])):
        (tmp_path / "md" / name).mkdir(parents=True)
        with mdtraj.formats.XTCTrajectoryFile(str(tmp_path / "md" / name / f"{name}_prod_R1_fit.xtc"), "w") as file:
            file.write(np.zeros((len(times), 1, 3), dtype=np.float32), time=np.array(times, dtype=np.float32))
    assert bundle.picoseconds([tmp_path / "md", tmp_path / "md200"]) == {"a": 0.0, "b": 6.0}
    chosen = json.loads((ROOT / "benchmarks" / "data" / "split.json").read_text())["choose"][0]["name"]
    (tmp_path / "md" / "a").rename(tmp_path / "md" / chosen)
    bundle.carried_md(tmp_path, tmp_path / "stores")
    assert [path.name for path in (tmp_path / "stores").glob("*/*")] == [chosen]


def test_a_row_that_fails_is_told_of_and_the_next_one_measured(tmp_path):
    from benchmarks.gpu.tables import Tables

    tables = Tables.__new__(Tables)
    tables.given = stage.Given(tmp_path, tmp_path, tmp_path, "cpu", 1.0, {}, 0.0)

    def fail(error: Exception) -> None:
        raise error

    row: dict[str, object] = {}
    assert tables._measured(row, lambda: fail(ValueError("of a compiler\nand more"))) == {}
    assert row == {"skipped": "ValueError: of a compiler"}
    row = {}
    assert tables._measured(row, lambda: fail(RuntimeError())) == {} and row["skipped"] == "RuntimeError: "
    assert tables._measured(row, lambda: {"figure": 1.0}) == {"figure": 1.0}


def test_packages_are_squeezed_once(tmp_path):
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    info = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Python: >=3.12\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/__init__.py", "")
        archive.writestr("tests/__init__.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", info)
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    squeezed = tmp_path / bundle.SITE
    bundle.site([wheel], squeezed)
    with tarfile.open(squeezed) as archive:
        names = archive.getnames()
    # for a newer Python than this may be, and without a folder that would stand for our own
    assert "./tiny/__init__.py" in names and not any("/tests" in name for name in names)
    before = squeezed.stat().st_mtime_ns
    bundle.site([wheel], squeezed)
    assert squeezed.stat().st_mtime_ns == before


def test_weighing(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(".gpu/\n")
    (tmp_path / "kept").write_bytes(b"x" * 1_000_000)
    (tmp_path / ".gpu" / "wheels").mkdir(parents=True)
    (tmp_path / ".gpu" / "wheels" / "a.whl").write_bytes(b"x" * 2_000_000)
    said = bundle.weighed(tmp_path, tmp_path / ".gpu", 4 * results.MEBI)
    assert "working tree 1.0 MiB, bundle 1.9 MiB (wheels 1.9): 2.9 MiB of 4, 1.1 MiB left" in said
    with pytest.raises(ValueError, match="0.9 MiB too much"):
        bundle.weighed(tmp_path, tmp_path / ".gpu", 2 * results.MEBI)


def test_commands_can_be_given_as_they_are_printed():
    said = bundle.commands()
    assert 'bash benchmarks/gpu/run.sh --plan first --output "$OUT"' in said and 'carry: [".gpu"]' in said
    assert (ROOT / "benchmarks" / "gpu" / "run.sh").exists()


def test_counts_of_bytes_and_launches():
    x, weight = torch.randn(4, 8), torch.randn(8, 16)
    found = throughput_measure.counted(lambda: (x @ weight).view(-1)[:3])
    # one product; views are free
    assert found == throughput_measure.Counted(2 * 4 * 8 * 16, 4 * (4 * 8 + 8 * 16 + 4 * 16), 1)
    repeated = torch.randn(1, 8).expand(1000, 8)
    # numbers that are repeated are read once, and a thousand times as many written
    assert throughput_measure.counted(lambda: repeated * 2).bytes == 4 * (8 + 8000)


def test_floors_take_the_larger_of_the_two():
    from benchmarks.gpu.tables import floors

    found = {"flops_per_step": 2e9, "least_bytes_per_step": 1e6, "bytes_per_step": 3e9, "launches_per_step": 1000}
    row = floors(found, "step", 0.01, rate=1e12, bandwidth=1e12)
    assert row["floor_flops"] == pytest.approx(2e-3) and row["floor_bytes"] == pytest.approx(1e-6)
    assert row["as_written_bytes"] == pytest.approx(3e-3) and row["launches"] == pytest.approx(5e-3)
    assert row["share_of_floor"] == pytest.approx(0.2)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory) -> tuple[Path, dict]:
    """The script as it is started on a lent machine, but for the CPU and tiny sizes."""
    folder = tmp_path_factory.mktemp("rehearsal")
    # no bundle, so that no wheels of another Python are unpacked
    places = {"BUNDLE": str(folder / "none"), "WORK": str(folder / "unused")}
    environment = {**os.environ, **places, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", "benchmarks/gpu/run.sh", "--rehearse", "--output", str(folder / "out")]
    outcome = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    summary = folder / "out" / "summary.json"
    assert summary.exists(), outcome.stdout + outcome.stderr
    content = json.loads(summary.read_text())
    told = "\n\n".join(f"{s['name']}: {s['status']}\n" + "\n".join(s.get("tail", [])) for s in content["stages"])
    assert not outcome.returncode, f"{told}\n\n{outcome.stdout}{outcome.stderr}"
    return folder / "out", content


@pytest.mark.slow
def test_rehearsal_of_every_stage(rehearsed):
    folder, summary = rehearsed
    assert [s["name"] for s in summary["stages"]] == list(MODULES)
    assert {s["status"] for s in summary["stages"]} == {"done"} and not summary["left_out"]
    assert sorted(p.name for p in folder.iterdir()) == [
        *("md_1.tar", "paper.json", "summary.json", "tables.json", "training_1.tar")
    ]
    assert summary["machine"]["problems"] == [] and "CPU" in summary["machine"]["openmm_platforms"]


@pytest.mark.slow
def test_rehearsed_md_can_be_trained_on(rehearsed, tmp_path):
    from openmm_starmd.data.folders import open_data

    folder, summary = rehearsed
    with tarfile.open(folder / "md_1.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    proteins = {p.name: p for p in open_data([tmp_path])}
    assert sorted(proteins) == ["1l2y_A", "2beg_A", "5a7u_A"]
    for protein in proteins.values():
        [replica] = protein.replicas
        assert len(replica) == 6 and replica.interval == pytest.approx(0.4)
    [fine] = next(p for p in open_data([tmp_path / "fine"]) if p.name == "2beg_A").replicas
    assert len(fine) == 4 and fine.interval == pytest.approx(0.2)
    assert summary["stages"][3]["collected"]["picoseconds"] == pytest.approx(dict.fromkeys(proteins, 2.4))


@pytest.mark.slow
def test_rehearsed_tables_training_and_rollouts(rehearsed, tmp_path):
    folder, summary = rehearsed
    tables = json.loads((folder / "tables.json").read_text())
    assert {(r["form"], r["replicas"]) for r in tables["drawing"]} == {("mini", 2), ("paper", 2)}
    assert {r["form"] for r in tables["training"]} == {"mini", "paper"} and tables["openmm"][0]["ns_per_day"] > 0
    for row in (*tables["drawing"], *tables["training"]):
        assert "skipped" not in row and row["floor_flops"] > 0 and row["as_written_bytes"] > row["floor_bytes"]

    with tarfile.open(folder / "training_1.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    run = tmp_path / training.RUN
    listing = json.loads((run / "weights" / "training_data.json").read_text())
    names = {p["name"] for p in listing["proteins"]}
    # neither the held-out protein, of which MD was made, nor the one validated on
    assert "5a7u_A" in names and not names & {"1l2y_A", "2beg_A"}
    assert (run / "weights" / "model.safetensors").exists()
    assert (run / "log.csv").read_text().splitlines()[-1].startswith("4,")
    assert summary["stages"][4]["collected"]["probe"]["tokens_per_second"] > 0

    content = json.loads((folder / "paper.json").read_text())
    assert [r["protein"] for r in content["rollouts"]] == ["2beg_A", "5a7u_A"] and content["steps"] == 4
    for rollout in content["rollouts"]:
        assert rollout["frames"] <= 6 and rollout["steps_trained"] == 4 and 0 <= rollout.get("valid", 0) <= 1
