"""The pool split keeps its promises, and so does what is kept of MD: nothing left out lies among the training MD."""

import json
import shutil

import pytest

from benchmarks.derive import kept_md, pool_split
from benchmarks.lib.paths import DATA
from openmm_starmd.model.weights import BUNDLED
from openmm_starmd.release.identity import LIMIT, identity

pytest.importorskip("Bio.Align", reason="needs biopython, of the extra `train`")

SPLIT = json.loads(pool_split.SPLIT.read_text())
LEFT_OUT = SPLIT["choose"] + SPLIT["report"]
shared = pytest.mark.skipif(
    not (pool_split.SHARED / "structures.csv").is_file(), reason="the shared data are not on this machine"
)


def test_four_choose_and_four_report_of_several_folds_and_lengths():
    assert [p["name"] for p in SPLIT["choose"]] == list(pool_split.CHOOSE)
    assert [p["name"] for p in SPLIT["report"]] == list(pool_split.REPORT)
    for proteins in SPLIT["choose"], SPLIT["report"]:
        lengths = [p["residues"] for p in proteins]
        assert len(proteins) == 4
        assert lengths == sorted(lengths) and lengths[-1] > 2 * lengths[0]
        assert {p["class"] for p in proteins} == {"α", "β", "α/β"}
        assert all(len(p["sequence"]) == p["residues"] for p in proteins)


def test_the_bundled_weights_saw_none_of_them_nor_kin():
    for listing in BUNDLED.glob("*/training_data.json"):
        trained = {p["name"]: p["sequence"] for p in json.loads(listing.read_text())["proteins"]}
        for protein in LEFT_OUT:
            assert protein["name"] not in trained
            near = max((identity(protein["sequence"], sequence), name) for name, sequence in trained.items())
            assert near[0] < LIMIT, f"{protein['name']} resembles {near[1]} of {listing.parent.name}"


def test_they_are_far_from_each_other():
    for number, first in enumerate(LEFT_OUT):
        for second in LEFT_OUT[number + 1 :]:
            assert identity(first["sequence"], second["sequence"]) < LIMIT


def test_nothing_is_in_two_lists():
    lists = (
        [p["name"] for p in LEFT_OUT],
        [p["name"] for p in SPLIT["also_left_out"]],
        [p["name"] for p in SPLIT["not_to_be_trained_on"]["kin"]],
        SPLIT["not_to_be_trained_on"]["compared"],
        SPLIT["pool"],
    )
    names = [name for each in lists for name in each]
    assert len(names) == len(set(names))


@shared
def test_pool_and_what_is_forbidden_are_far_from_them():
    rows = pool_split.structures(pool_split.SHARED)
    banned = pool_split.forbidden(pool_split.SHARED, rows)
    assert sorted(banned) == SPLIT["not_to_be_trained_on"]["compared"]
    assert len(banned["BPTI"]) == 58 and len(banned["DHFR"]) == 159 and len(banned["ubiquitin"]) == 76
    others = banned | {name: rows[name]["sequence"] for name in SPLIT["pool"]}
    for protein in LEFT_OUT:
        assert rows[protein["name"]]["sequence"] == protein["sequence"]
        assert pool_split.kin(protein["sequence"], others)[0][0] < LIMIT
    every = {p["name"] for p in LEFT_OUT + SPLIT["also_left_out"] + SPLIT["not_to_be_trained_on"]["kin"]}
    assert every | {*SPLIT["pool"], *SPLIT["not_to_be_trained_on"]["compared"]} >= set(rows)


@shared
@pytest.mark.slow
def test_the_script_writes_what_is_there():
    assert pool_split.split(pool_split.SHARED) == SPLIT


def test_a_split_that_breaks_a_promise_is_refused():
    entries = {p["name"]: p for p in LEFT_OUT}
    pool_split.promise(entries)
    name = pool_split.CHOOSE[0]
    with pytest.raises(ValueError, match=f"{name} is 45 % identical to kin_A"):
        pool_split.promise(entries | {name: entries[name] | {"highest_identity": {"pool": [0.45, "kin_A"]}}})
    with pytest.raises(ValueError, match=f"{name} was trained on"):
        pool_split.promise(entries | {name: entries[name] | {"seen_by_v2": True}})
    with pytest.raises(ValueError, match="three folds"):
        pool_split.promise(entries | {n: entries[n] | {"class": "α"} for n in pool_split.REPORT})


def test_training_md_is_of_none_of_them_and_pool_md_of_nothing_else():
    never = {p["name"] for p in LEFT_OUT + SPLIT["also_left_out"]} | {*SPLIT["not_to_be_trained_on"]["compared"]}
    assert not never & {folder.name for folder in (DATA / "training").iterdir()}
    pool = DATA / "pool"
    if pool.is_dir():
        assert {folder.name for folder in pool.iterdir() if folder.is_dir()} <= {p["name"] for p in LEFT_OUT}


def test_the_table_of_the_training_md_is_true():
    folder = DATA / "training"
    assert kept_md.table(folder) in (folder / "README.md").read_text()
    assert kept_md.megabytes(folder) <= kept_md.LIMIT_MB


def test_a_table_is_read_from_files_and_keeps_what_is_said_of_machines(tmp_path):
    for name in "1gjs_A", "2myx_A":
        shutil.copytree(DATA / "training" / name, tmp_path / name)
    (tmp_path / "README.md").write_text(
        "| protein | residues | ps | x | machine |\n|---|---|---|---|---|\n| 1gjs_A | 1 | 1 | 1 | abacus |\n"
    )
    with pytest.raises(ValueError, match="2myx_A is not in the table"):
        kept_md.table(tmp_path)
    rows = kept_md.table(tmp_path, "slide rule").splitlines()
    assert rows[0] == "2 proteins, 0.18 ns."
    assert rows[4:] == ["| 1gjs_A | 45 | 100 | 1 | abacus |", "| 2myx_A | 52 | 80 | 1 | slide rule |"]
    shutil.copy(tmp_path / "2myx_A" / "2myx_A_prod_R1_fit.xtc", tmp_path / "2myx_A" / "2myx_A_prod_R2_fit.xtc")
    assert kept_md.table(tmp_path, "-").splitlines()[-1] == "| 2myx_A | 52 | 80 + 80 | 1 | - |"
    (tmp_path / "1gjs_A" / "1gjs_A_prod_R1_fit.xtc").unlink()
    with pytest.raises(ValueError, match="no trajectory of at least two frames"):
        kept_md.table(tmp_path, "-")
