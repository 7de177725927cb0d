"""The model card: what the benchmarks measured, and nothing of other weights."""

import json

import pytest

from openmm_starmd.model.weights import BUNDLED, DEFAULT_WEIGHTS
from openmm_starmd.release import figures, model_card
from tests.test_benchmarks import protein_figures


def test_card_says_what_was_measured(tmp_path):
    folder = BUNDLED / DEFAULT_WEIGHTS
    proteins = {"1l2y_A": protein_figures()}
    settings = {"seeds": [0, 1, 2], "frames": 200, "weights": "w", "training": None}
    for name, stride, training in (
        ("fidelity", 10.0, None),
        ("fidelity-100ps", 100.0, None),
        ("fidelity-training", 10.0, ["x"]),
    ):
        lines = [{"line": "valid", "measured": "100 %", "demanded": ">= 99 %", "passed": True}]
        content = {"settings": settings | {"stride": stride, "training": training}, "proteins": proteins}
        content |= {"means": figures.means(proteins), "criteria": lines}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    speed = {"ratio": [1, 2, 3], "structure": "s", "residues": 1, "atoms": 2, "threads": 1, "machine": "m"}
    (tmp_path / "speed.json").write_text(json.dumps(speed))
    text = model_card.render(folder, tmp_path)
    assert text.startswith(f"# {DEFAULT_WEIGHTS}") and "Measured at 10 and 100 ps" in text
    assert "### Held-out proteins, 10 ps" in text and "### Held-out proteins, 100 ps" in text
    assert text.count("What was demanded") == 2 and text.count("not trained on, 10 ps") == 1
    listing = json.loads((folder / "training_data.json").read_text())
    parent = listing["recipe"].get("start_from")
    assert (f"fine-tuned from {parent}" if parent else "trained from scratch") in text
    assert all(note in text for note in listing.get("notes", []))
    assert "**STAR-MD**" in text and "{" not in text
    assert f"{len(listing['proteins'])} proteins" in text
    said = {"settings": {"steps": 5, "frames": 500, "stride": 10}, "conclusion": ["noise helps"], "variants": {}}
    (tmp_path / "ablation.json").write_text(json.dumps(said))
    assert "- noise helps" in model_card.render(folder, tmp_path)
    assert "learning rate" in model_card.describe(listing["recipe"])
    # figures of other weights are refused
    content = json.loads((tmp_path / "fidelity.json").read_text())
    content["settings"]["weights_sha256"] = "0" * 64
    (tmp_path / "fidelity.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="of other weights"):
        model_card.render(folder, tmp_path)


def test_card_of_the_bundled_weights_is_what_was_measured():
    folder = BUNDLED / DEFAULT_WEIGHTS
    results = BUNDLED.parents[1] / "benchmarks" / "results"
    assert model_card.render(folder, results) == (folder / "MODEL_CARD.md").read_text()


def test_command_says_what_is_missing(monkeypatch, tmp_path):
    folder = BUNDLED / DEFAULT_WEIGHTS
    monkeypatch.setattr("sys.argv", ["model_card", str(folder), "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"fidelity\.json is missing: run the benchmark"):
        model_card.main()
