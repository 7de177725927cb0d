"""What ships: size, card, and a training list free of the held-out proteins."""

import json

import pytest

from openmm_starmd.model.weights import BUNDLED, DEFAULT_WEIGHTS, bundled_weights, load_weights
from openmm_starmd.release.checks import verify
from openmm_starmd.release.identity import LIMIT, identity

pytest.importorskip("Bio.Align", reason="needs biopython, of the extra `train`")

HELD_OUT = {
    "1l2y_A": "NLYIQWLKDGGPSSGRPPPS",
    "2op7_A": "NEEPLPEGWEIRYTREGVRYFVDHNTRTTTFKDPRNGKS",
    "2k28_A": "AVESIEKKRIRKGRVEYLVKWRGWSPKYNTWEPEENILDPRLLIAFQNRE",
    "6okd_A": "GSREGCASRCMKYNDELEKCEARMMSMSNTEEDCEQELEDLLYCLDHCHSQ",
    "6mrr_A": "GWSTELEKHREELKEFLKKEGITNVEIRIDNGRLEVRVEGGTERLKRFLEELRQKLEKKGYTVDIKIE",
}
NAMES = bundled_weights()


def test_identity_measure_finds_a_near_copy():
    assert identity(HELD_OUT["1l2y_A"], "DAYAQWLADGGPSSGRPPPS") == pytest.approx(0.8)
    assert identity(HELD_OUT["1l2y_A"], HELD_OUT["1l2y_A"]) == 1


def test_there_are_bundled_weights():
    assert DEFAULT_WEIGHTS in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_no_training_protein_resembles_a_held_out_one(name):
    listing = json.loads((BUNDLED / name / "training_data.json").read_text())["proteins"]
    assert len(listing) > 10
    for protein in listing:
        for held_out, sequence in HELD_OUT.items():
            share = identity(protein["sequence"], sequence)
            assert share <= LIMIT, f"{protein['name']} is {100 * share:.0f} % identical to {held_out}"


@pytest.mark.parametrize("name", NAMES)
def test_weights_load_and_fit_their_card(name):
    weights = load_weights(name)
    assert weights.name == name
    files = list((BUNDLED / name).iterdir())
    assert {f.name for f in files} == {"model.safetensors", "config.json", "training_data.json", "MODEL_CARD.md"}
    assert sum(f.stat().st_size for f in files) < 25e6
    card = (BUNDLED / name / "MODEL_CARD.md").read_text()
    for protein in json.loads((BUNDLED / name / "training_data.json").read_text())["proteins"]:
        assert protein["name"] in card and protein["sequence"] in card
        assert len(protein["sequence"]) <= weights.config.max_length


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_weights_pass_their_own_verification(name):
    checks = list(verify(name, held_out=HELD_OUT))
    assert [check.name for check in checks if check.ok is not True] == []
    assert {check.name for check in checks} >= {"files", "numbers", "forward pass", "rollout", "held-out proteins"}
    near = {"near copy": json.loads((BUNDLED / name / "training_data.json").read_text())["proteins"][0]["sequence"]}
    assert [check.name for check in verify(name, frames=1, held_out=near) if check.ok is False] == ["held-out proteins"]
