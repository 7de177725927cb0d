"""Fine-tuning: trained weights into the network of a recipe, which may have more than they."""

from __future__ import annotations

from dataclasses import asdict

from openmm_starmd.model.network import Network

GAINED = ("conditioner.torsions.weight",)
"""Weights that older ones may lack. They are zero at first, so that the network goes on from what it knew."""
SIZES = (
    *("anchored", "conditioner", "reference_torsions", "c_s", "c_z", "blocks", "conditioner_layers"),
    *("conditioner_s", "conditioner_z", "ipa_heads", "ipa_hidden", "ipa_query_points", "ipa_value_points"),
    *("attention_layers", "attention_heads", "attention_hidden", "mlp_ratio"),
)
"""Settings of the model that weights are made for."""


def take_over(network: Network, weights: Network) -> None:
    """Begin from trained weights.

    A network with ``reference_torsions`` may begin from weights without: it gives what they give, until it is trained.

    Parameters
    ----------
    network : Network
        Fresh; changed in place.
    weights : Network

    Raises
    ------
    ValueError
        If the weights were made for another model; names the settings that differ.
    """
    mine, theirs = asdict(network.config), asdict(weights.config)
    gained = network.config.reference_torsions and not weights.config.reference_torsions
    differing = [
        f"model.{name} is {mine[name]!r} and theirs {theirs[name]!r}"
        for name in SIZES
        if mine[name] != theirs[name] and not (name == "reference_torsions" and gained)
    ]
    if differing:
        raise ValueError(
            f"the weights to begin from do not fit the recipe: {'; '.join(differing)}. Leave these settings as the "
            "weights have them; only reference_torsions can be switched on"
        )
    state = network.state_dict()
    network.load_state_dict({name: state[name] for name in GAINED if name in state} | weights.state_dict())
