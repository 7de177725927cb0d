"""The command prepare: every kind of input, bad chains among good ones, kills, settings, processes."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from typer.testing import CliRunner

from openmm_starmd.cli import app
from openmm_starmd.data.atlas import find_sources, read_split
from openmm_starmd.data.folders import open_data
from openmm_starmd.data.prepare import Settings, prepare
from tests.trajectories import fragment, wobble, write_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return write_chain(tmp_path_factory.mktemp("atlas"), frames=12)


@pytest.fixture(scope="module")
def expected(chain, tmp_path_factory):
    """The store of the chain's folder."""
    store = tmp_path_factory.mktemp("expected") / "store"
    prepare([chain], store, progress=False)
    return store


def arrays(store: Path) -> dict[str, bytes]:
    """What a store holds, by replica and array, the name of the protein left aside."""
    return {"/".join(path.parts[-2:]): path.read_bytes() for path in sorted(store.glob("*/R*/*.npy"))}


def command(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    return result.exit_code, result.output


def test_command_converts_and_says_so(chain, expected, tmp_path):
    code, text = command(chain, "-o", tmp_path / "store")
    assert code == 0 and "2 trajectories (18 frames)" in text
    assert arrays(tmp_path / "store") == arrays(expected) != {}
    assert (tmp_path / "store" / "rejected.csv").read_text().split() == ["name,replica,reason"]
    code, text = command(chain, "-o", tmp_path / "store")
    assert code == 0 and "0 trajectories (0 frames), 2 there already" in text


@pytest.mark.parametrize("naming", ["{}_prod_R{}_fit.xtc", "{}_R{}.xtc"])
@pytest.mark.parametrize("inside", ["", "1abc_A/"])
def test_archives_as_atlas_ships_them(chain, expected, tmp_path, naming, inside):
    archive = tmp_path / "1abc_A_protein.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{inside}README.txt", "see the ATLAS site")
        file.write(chain / "1abc_A.pdb", f"{inside}1abc_A.pdb")
        for number in (1, 2):
            file.writestr(f"{inside}1abc_A_R{number}.tpr", b"binary")
            file.write(chain / f"1abc_A_prod_R{number}_fit.xtc", inside + naming.format("1abc_A", number))
    store = tmp_path / "store"
    assert prepare([archive], store, progress=False).converted == 2
    assert arrays(store) == arrays(expected) and [p.name for p in open_data([store])] == ["1abc_A"]
    assert not list(store.glob(".partial*"))
    assert prepare([archive], store, progress=False).present == 2
    # its parent is an input too
    assert [source.name for source in find_sources([tmp_path])] == ["1abc_A"]


def test_damaged_archives_are_named(chain, tmp_path):
    archive = tmp_path / "1abc_A_protein.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in sorted(chain.iterdir()):
            file.write(path, path.name)
    data = bytearray(archive.read_bytes())
    middle = data.find((chain / "1abc_A_prod_R2_fit.xtc").read_bytes()) + 2000
    data[middle : middle + 50] = bytes(50)
    archive.write_bytes(data)
    outcome = prepare([archive], tmp_path / "store", progress=False)
    assert outcome.converted == 1
    (rejection,) = outcome.rejected
    assert rejection.replica == 2 and "1abc_A_prod_R2_fit.xtc is damaged" in rejection.reason


def test_changed_topologies_are_read_again(chain, tmp_path):
    """One process, one path, another file: nothing of the first is remembered."""
    folder = tmp_path / "1abc_A"
    shutil.copytree(chain, folder)
    prepare([folder], tmp_path / "first", progress=False)
    start = fragment(9)
    start.save_pdb(str(folder / "1abc_A.pdb"))
    for number in (1, 2):
        wobble(start, 3).save_xtc(str(folder / f"1abc_A_prod_R{number}_fit.xtc"))
    assert prepare([folder], tmp_path / "second", progress=False).rejected == []
    assert open_data([tmp_path / "second"])[0].features.length == 9


def test_parent_takes_folders_before_archives(chain, tmp_path):
    shutil.copytree(chain, tmp_path / "1abc_A_protein")
    write_chain(tmp_path, "2xyz_B", frames=4, replicas=(1,))
    for name in ("1abc_A_analysis", "1abc_A_protein"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
            file.writestr("1abc_A.pdb", "")
            file.writestr("1abc_A_R1.xtc", name)
    (tmp_path / "notes").mkdir()
    sources = {source.name: source for source in find_sources([tmp_path])}
    assert set(sources) == {"1abc_A", "2xyz_B"}
    assert sources["1abc_A"].replicas[0][1].path == str(tmp_path / "1abc_A_protein" / "1abc_A_prod_R1_fit.xtc")
    shutil.rmtree(tmp_path / "1abc_A_protein")
    sources = {source.name: source for source in find_sources([tmp_path])}
    assert sources["1abc_A"].topology.path == str(tmp_path / "1abc_A_protein.zip")


def test_fitted_trajectories_come_before_others_of_their_number(chain, tmp_path):
    folder = shutil.copytree(chain, tmp_path / "1abc_A")
    (folder / "1abc_A_R1.xtc").write_bytes(b"")
    (folder / "1abc_A_R3.xtc").write_bytes(b"")
    (source,) = find_sources([folder])
    assert [(n, f.name) for n, f in source.replicas] == [
        (1, "1abc_A_prod_R1_fit.xtc"),
        (2, "1abc_A_prod_R2_fit.xtc"),
        (3, "1abc_A_R3.xtc"),
    ]


@pytest.mark.parametrize("ending", ["xtc", "trr", "dcd", "h5", "nc", "xyz", "pdb"])
def test_formats(tmp_path, ending):
    """The same frames from every format: exactly, or to the digits that it writes."""
    if ending == "h5":
        pytest.importorskip("tables")
    if ending == "nc":
        pytest.importorskip("netCDF4")
    start = fragment()
    trajectory = wobble(start, 6, interval=2.0)
    start.save_pdb(str(tmp_path / "start.pdb"))
    trajectory.save(str(tmp_path / f"moves.{ending}"))
    timed = ending in ("xtc", "trr", "h5", "nc")
    # these hold a topology themselves
    inputs = [tmp_path / f"moves.{ending}"] if ending in ("h5", "pdb") else [tmp_path / "start.pdb"]
    if len(inputs) == 1 and ending not in ("h5", "pdb"):
        inputs.append(tmp_path / f"moves.{ending}")
    if not timed:
        outcome = prepare(inputs, tmp_path / "refused", progress=False)
        assert "--interval" in outcome.rejected[0].reason and outcome.converted == 0
    settings = Settings() if timed else Settings(interval=2.0)
    outcome = prepare(inputs, tmp_path / "store", settings, progress=False)
    assert outcome.rejected == [] and outcome.frames == 6
    (protein,) = open_data([tmp_path / "store"])
    assert protein.replicas[0].interval == pytest.approx(2.0)
    alphas = trajectory.xyz[:, start.topology.select("name CA")]
    error = np.abs(protein.replicas[0].rigids(np.arange(6)).translations.numpy() - alphas).max()
    assert error < {"xtc": 6e-4, "xyz": 1e-4, "pdb": 6e-5}.get(ending, 1e-6)


@pytest.mark.parametrize("ending", [".ent", ".PDB", ".pdb.gz", ".ENT.GZ", ".cif"])
def test_every_ending_of_a_structure(tmp_path, ending):
    """As a topology, and with its models as frames."""
    start = fragment(9)
    frames = wobble(start, 4)
    mdtraj_ending = ".cif" if ending == ".cif" else ".pdb"
    frames.save(str(tmp_path / f"x{mdtraj_ending}"))
    frames.save_xtc(str(tmp_path / "x.xtc"))
    expected = (tmp_path / f"x{mdtraj_ending}").rename(tmp_path / f"plain{mdtraj_ending}")
    path = tmp_path / f"x{ending}"
    data = expected.read_bytes()
    path.write_bytes(gzip.compress(data) if ending.lower().endswith(".gz") else data)
    stores = []
    for topology in (expected, path):
        stores.append(tmp_path / f"store{len(stores)}")
        named = shutil.copy(topology, tmp_path / f"1abc{''.join(topology.suffixes)}")
        outcome = prepare([named, tmp_path / "x.xtc"], stores[-1], progress=False)
        assert outcome.rejected == [] and outcome.frames == 4
        outcome = prepare([topology], tmp_path / f"alone{len(stores)}", Settings(interval=10.0), progress=False)
        assert outcome.rejected == [] and outcome.frames == 4
    assert arrays(stores[0]) == arrays(stores[1])


def test_topologies_and_their_trajectories(tmp_path):
    """Several groups on one command line; a bare topology takes its reference from its first trajectory."""
    start = fragment()
    for name in ("one", "two"):
        start.save_pdb(str(tmp_path / f"{name}.pdb"))
        for number in (1, 2):
            wobble(start, 4 + number).save_xtc(str(tmp_path / f"{name}{number}.xtc"))
    one, two = ([tmp_path / f"{n}.pdb", tmp_path / f"{n}1.xtc", tmp_path / f"{n}2.xtc"] for n in ("one", "two"))
    outcome = prepare([*one, *two], tmp_path / "store", progress=False)
    assert outcome.converted == 4
    assert [(p.name, [len(r) for r in p.replicas]) for p in open_data([tmp_path / "store"])] == [
        ("one", [5, 6]),
        ("two", [5, 6]),
    ]
    with pytest.raises(ValueError, match=r"one1.xtc has no topology before it"):
        find_sources([tmp_path / "one1.xtc"])
    with pytest.raises(ValueError, match="several inputs are named one"):
        find_sources([*one, *one])
    (tmp_path / "bare.psf").write_text("")
    with pytest.raises(ValueError, match="no trajectory behind it"):
        find_sources([tmp_path / "bare.psf"])
    (source,) = find_sources([tmp_path / "bare.psf", tmp_path / "one.pdb"])
    assert [file.name for _, file in source.replicas] == ["one.pdb"]
    with pytest.raises(ValueError, match=r"there is no .*nowhere"):
        find_sources([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds neither"):
        find_sources([tmp_path / "empty"])


def test_every(chain, expected, tmp_path):
    outcome = prepare([chain], tmp_path / "store", Settings(every=30.0, chunk=5), progress=False)
    assert outcome.rejected == []
    (thinned,), (full,) = open_data([tmp_path / "store"]), open_data([expected])
    for ours, theirs in zip(thinned.replicas, full.replicas, strict=True):
        assert ours.interval == 30.0
        assert np.array_equal(ours.array("translations"), theirs.array("translations")[::3])
        assert np.array_equal(ours.array("torsions"), theirs.array("torsions")[::3])
    outcome = prepare([chain], tmp_path / "odd", Settings(every=25.0), progress=False)
    assert [r.reason for r in outcome.rejected] == 2 * [
        "its frames lie 10 ps apart, of which --every 25 is no whole multiple"
    ]
    outcome = prepare([chain], tmp_path / "sparse", Settings(every=100.0), progress=False)
    # 12 frames hold two that lie 100 ps apart, 6 do not
    assert (outcome.converted, [r.replica for r in outcome.rejected]) == (1, [2])


@pytest.mark.parametrize(
    "times, message",
    [
        ([0, 10, 20, 30, 45, 55], "not evenly spaced: frame 4 at 45 ps comes 15 ps after the one before, others 1"),
        ([0, 10, 20, 20, 30, 40], "not evenly spaced: frame 3 at 20 ps comes 0 ps"),
        ([5, 5, 5, 5, 5, 5], "times do not increase"),
        ([50, 40, 30, 20, 10, 0], "times do not increase"),
    ],
)
@pytest.mark.parametrize("chunk", [None, 2])
def test_odd_times_are_refused_unless_told(tmp_path, times, message, chunk):
    start = fragment()
    start.save_pdb(str(tmp_path / "odd.pdb"))
    mdtraj.Trajectory(wobble(start, 6).xyz, start.topology, time=times).save_xtc(str(tmp_path / "odd.xtc"))
    inputs = [tmp_path / "odd.pdb", tmp_path / "odd.xtc"]
    (rejection,) = prepare(inputs, tmp_path / "store", Settings(chunk=chunk), progress=False).rejected
    if chunk is None or "not increase" in message:
        assert message in rejection.reason
    assert "--interval" in rejection.reason and rejection.replica == 1
    told = prepare(inputs, tmp_path / "told", Settings(interval=4.0, every=8.0, chunk=chunk), progress=False)
    assert told.frames == 3 and open_data([tmp_path / "told"])[0].replicas[0].interval == 8.0


def test_late_and_long_clocks_keep_their_interval(tmp_path):
    """Single-precision times of a microsecond-long run: 0.2 ps apart, yet late."""
    start = fragment()
    start.save_pdb(str(tmp_path / "late.pdb"))
    times = 1e5 + 0.2 * np.arange(40)
    mdtraj.Trajectory(wobble(start, 40).xyz, start.topology, time=times).save_xtc(str(tmp_path / "late.xtc"))
    outcome = prepare([tmp_path / "late.pdb", tmp_path / "late.xtc"], tmp_path / "store", Settings(chunk=9))
    assert outcome.rejected == []
    assert open_data([tmp_path / "store"])[0].replicas[0].interval == pytest.approx(0.2, rel=1e-3)


def test_bad_chains_do_not_stop_good_ones(chain, expected, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(chain, tree / "1abc_A")
    start = fragment(20)
    (tree / "long").mkdir()
    start.save_pdb(str(tree / "long" / "long.pdb"))
    wobble(start, 3).save_xtc(str(tree / "long" / "long_prod_R1_fit.xtc"))
    cut = shutil.copytree(chain, tree / "cut")
    for path in cut.iterdir():
        path.rename(cut / path.name.replace("1abc_A", "cut"))
    whole = (cut / "cut_prod_R1_fit.xtc").read_bytes()
    (cut / "cut_prod_R1_fit.xtc").write_bytes(whole[: int(0.7 * len(whole))])
    misfit = write_chain(tree, "misfit", frames=3, replicas=(1,))
    fragment(9).save_pdb(str(misfit / "misfit.pdb"))
    headless = write_chain(tree, "headless", frames=3, replicas=(1,))
    (headless / "headless.pdb").unlink()
    lacking = write_chain(tree, "lacking", frames=3, replicas=(1,))
    lines = (lacking / "lacking.pdb").read_text().splitlines()
    (lacking / "lacking.pdb").write_text("\n".join(line.replace(" CA  PHE", " CX  PHE") for line in lines))
    single = write_chain(tree, "single", frames=1, replicas=(1,))
    (tree / "broken_protein.zip").write_bytes(b"PK no more")
    (tree / "idle").mkdir()
    (tree / "idle" / "idle.pdb").write_text("")

    store = tmp_path / "store"
    code, text = command(tree, "-o", store, "--max-length", 15)
    assert code == 1 and "8 rejected, see" in text and f"{store}: 3 trajectories" in text
    with open(store / "rejected.csv", newline="") as file:
        reasons = {(row["name"], row["replica"]): row["reason"] for row in csv.DictReader(file)}
    expectations = {
        ("long", ""): "20 residues, more than --max-length 15",
        ("cut", "1"): "cannot be read from frame",
        ("misfit", "1"): "it has 183 atoms and the topology 139",
        ("headless", ""): "headless.pdb is missing",
        ("lacking", ""): "lacks backbone atom CA",
        ("single", "1"): "fewer than two frames",
        ("broken", ""): "no readable zip archive",
        ("idle", ""): "holds no idle_prod_R1_fit.xtc",
    }
    assert set(reasons) == set(expectations)
    for key, part in expectations.items():
        assert part in reasons[key], (key, reasons[key])
    assert "PHE" in reasons["lacking", ""]
    assert [p.name for p in open_data([store])] == ["1abc_A", "cut"]
    # nothing of what was rejected stays, half a replica least of all
    assert {path.name for path in store.iterdir() if path.is_dir()} == {"1abc_A", "cut"}
    assert [path.name for path in (store / "cut").glob("*R*")] == ["R2"]
    assert arrays(store / ".." / "store")["R1/translations.npy"] == arrays(expected)["R1/translations.npy"]
    # what has been mended is taken up by the next run, and other rows stay
    shutil.copy(chain / "1abc_A_prod_R1_fit.xtc", cut / "cut_prod_R1_fit.xtc")
    code, text = command(cut, "-o", store, "--max-length", 15)
    assert code == 0 and "1 trajectories (12 frames), 1 there already" in text
    assert len((store / "rejected.csv").read_text().splitlines()) == 8 and single.exists()


def test_split(chain, tmp_path):
    tree = tmp_path / "tree"
    for name in ("aaaa_A", "bbbb_B", "cccc_C"):
        write_chain(tree, name, frames=3, replicas=(1,))
    table = tmp_path / "split.csv"
    table.write_text(
        "name,seqres,release_date,split\naaaa_A,X,2018-01-01,train\nbbbb_B,X,2019-01-01,val\nzzzz_Z,X,,val\n"
    )
    code, text = command(tree, "-o", tmp_path / "val", "--split", table, "--only", "val")
    assert code == 0 and "2 proteins outside the split" in text
    assert [p.name for p in open_data([tmp_path / "val"])] == ["bbbb_B"]
    assert read_split(table) == {"aaaa_A", "bbbb_B", "zzzz_Z"}
    with pytest.raises(ValueError, match=r"no split file .*columns name and split"):
        read_split(tmp_path / "missing.csv")
    for arguments, message in (
        (["--only", "val"], "say with --split"),
        (["--split", table, "--only", "test"], "no name in the split 'test'; it has train, val"),
    ):
        code, text = command(tree, "-o", tmp_path / "none", *arguments)
        assert code == 2 and message in text and not (tmp_path / "none").exists()
    table.write_text("name,part\naaaa_A,train\n")
    with pytest.raises(ValueError, match="no column 'split'"):
        read_split(table)
    table.write_text("name,split\naaaa_A,train\naaaa_A,val\n")
    with pytest.raises(ValueError, match="aaaa_A in two splits, train and val"):
        read_split(table)


def test_other_settings_and_other_files_are_refused(chain, tmp_path):
    folder = shutil.copytree(chain, tmp_path / "1abc_A")
    store = tmp_path / "store"
    prepare([folder], store, Settings(every=20.0), progress=False)
    before = arrays(store)
    for options, message in (
        ([], "made with --every 20.0, not left out"),
        (["--every", 10], "made with --every 20.0, not 10.0"),
        (["--every", 20, "--max-length", 50], "made with --max-length 384, not 50"),
        (["--every", 20, "--interval", 10], "R1 was made with --interval left out, not 10.0"),
    ):
        code, text = command(folder, "-o", store, *options)
        assert code == 2 and message in " ".join(text.split()), text
    wobble(fragment(), 12, seed=9).save_xtc(str(folder / "1abc_A_prod_R1_fit.xtc"))
    code, text = command(folder, "-o", store, "--every", 20)
    assert code == 2 and "made from another file" in text and "delete the folder" in text
    assert arrays(store) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    code, text = command(folder, "-o", tmp_path / "other")
    assert code == 2 and "is no store" in text


def test_copies_with_other_dates_are_the_same_files(chain, tmp_path):
    folder = shutil.copytree(chain, tmp_path / "1abc_A")
    prepare([folder], tmp_path / "store", progress=False)
    os.utime(folder / "1abc_A.pdb", (1, 1))
    assert prepare([folder], tmp_path / "store", progress=False).present == 2


@pytest.mark.slow
def test_several_processes_give_the_same_store(tmp_path):
    for name in ("aaaa_A", "bbbb_B"):
        write_chain(tmp_path / "tree", name, frames=6)
    (tmp_path / "tree" / "cccc_C.zip").write_bytes(b"")
    bad = write_chain(tmp_path / "tree", "dddd_D", frames=6, replicas=(1,))
    (bad / "dddd_D.pdb").write_text("END\n")
    many = prepare([tmp_path / "tree"], tmp_path / "many", workers=2, progress=False)
    one = prepare([tmp_path / "tree"], tmp_path / "one", progress=False)
    assert (many.converted, many.frames) == (one.converted, one.frames) == (4, 18)
    assert {(r.name, r.replica, r.reason) for r in many.rejected} == {
        (r.name, r.replica, r.reason) for r in one.rejected
    }
    assert {r.name for r in one.rejected} == {"cccc_C", "dddd_D"}
    for name in ("aaaa_A", "bbbb_B"):
        assert arrays(tmp_path / "many" / name / "..") == arrays(tmp_path / "one" / name / "..")


def slow_conversion(tree: Path, store: Path) -> subprocess.Popen:
    """The command in a process of its own, a frame at a time, so that a kill finds it at work."""
    code = (
        "import time; from openmm_starmd.data import conversion, prepare\n"
        "append = conversion.ReplicaWriter.append\n"
        "conversion.ReplicaWriter.append = lambda *a: (append(*a), time.sleep(0.05))\n"
        f"prepare.prepare([{str(tree)!r}], {str(store)!r}, prepare.Settings(chunk=2), progress=False)"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)


@pytest.mark.slow
def test_killed_conversions_go_on(chain, expected, tmp_path):
    """SIGKILL in the middle of a replica: what was finished stays, the half one is done again, to the same bytes."""
    store = tmp_path / "store"
    half = store / "1abc_A"
    for stage, pattern in (("R1", ".partial-R1-*/translations.npy"), ("R2", ".partial-R2-*/translations.npy")):
        process = slow_conversion(chain, store)
        deadline = time.monotonic() + 600
        while not list(half.glob(pattern)) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        assert list(half.glob(pattern)) and not (half / stage).exists(), stage
        assert (half / "R1").exists() == (stage == "R2")
    finished = (half / "R1" / "translations.npy").stat().st_mtime_ns
    assert [len(protein.replicas) for protein in open_data([store])] == [1]
    outcome = prepare([chain], store, progress=False)
    assert (outcome.converted, outcome.present) == (1, 1)
    assert (half / "R1" / "translations.npy").stat().st_mtime_ns == finished
    assert arrays(store) == arrays(expected) and not list(store.rglob(".partial*"))


def test_interrupted_command_says_how_to_go_on(chain, tmp_path, monkeypatch):
    from openmm_starmd.data import conversion

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion.ReplicaWriter, "append", interrupt)
        code, text = command(chain, "-o", tmp_path / "store")
    assert code == 130 and "the same command goes on" in text
    assert not list((tmp_path / "store").rglob(".partial-R*"))
    assert command(chain, "-o", tmp_path / "store")[0] == 0


def test_a_second_process_is_refused(chain, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    store = tmp_path / "store"
    prepare([chain], store, progress=False)
    handle = os.open(store, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(ValueError, match="another process is writing"):
            prepare([chain], store, progress=False)
    finally:
        os.close(handle)


def test_a_full_disk_is_no_chains_fault(chain, tmp_path, monkeypatch):
    from openmm_starmd.data import conversion

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion.ReplicaWriter, "append", full)
    with pytest.raises(OSError, match="No space left"):
        prepare([chain], tmp_path / "store", progress=False)
    assert not list((tmp_path / "store").rglob(".partial-R*"))


def test_unsafe_names_get_safe_folders(tmp_path):
    start = fragment()
    start.save_pdb(str(tmp_path / "my protein (α).pdb"))
    wobble(start, 3).save_xtc(str(tmp_path / "x.xtc"))
    prepare([tmp_path / "my protein (α).pdb", tmp_path / "x.xtc"], tmp_path / "store", progress=False)
    (folder,) = (path for path in (tmp_path / "store").iterdir() if path.is_dir())
    assert folder.name.isascii() and " " not in folder.name
    assert open_data([tmp_path / "store"])[0].name == "my protein (α)"
    assert json.loads((folder / "protein.json").read_text())["name"] == "my protein (α)"
