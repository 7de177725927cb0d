"""Learned frames: the propagator of trained weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from openmm_starmd.propagators.contract import Array, Present, Proposal

if TYPE_CHECKING:
    import torch

    from openmm_starmd.model.openfold import OpenFoldFeatures
    from openmm_starmd.model.weights import Weights
    from openmm_starmd.protein.protein import Protein
    from openmm_starmd.rollout import Rollout


class LearnedPropagator:
    """Frames drawn by a trained network: owns the rollout and what is held of it.

    Parameters
    ----------
    protein : Protein
        N residues.
    rollout : Rollout
        Of one replica, at its start. Its memory is rebuilt from the history whenever the two disagree: after a
        checkpoint or state was loaded, after an interrupt.
    atoms : {"ca", "backbone", "heavy"}
        Which atoms a frame has.
    torsions : bool
        Whether drawn torsions place O and side chains; else those ride rigidly on their residue.
    weights_id : str
        Names the weights, so that a checkpoint made with others is refused.
    name : str
        What people call the weights.
    """

    def __init__(
        self,
        protein: Protein,
        rollout: Rollout,
        *,
        atoms: str = "backbone",
        torsions: bool = False,
        weights_id: str = "",
        name: str = "",
    ) -> None:
        if len(rollout.seeds) != 1:
            raise ValueError(f"the rollout has {len(rollout.seeds)} replicas; a simulation has exactly one")
        self._protein, self.rollout, self._atoms, self._torsions = protein, rollout, atoms, torsions
        self.memory = rollout.settings.max_context
        self.identity = (weights_id, torsions, rollout.settings)
        self.name = name
        self._held: tuple[int, int, int] | None = None  # token, number and seed of the frame in the rollout's memory

    @classmethod
    def from_weights(
        cls,
        protein: Protein,
        weights: Weights,
        *,
        stride: float,
        seed: int,
        atoms: str,
        device: str | torch.device | None = None,
        steps: int | None = None,
        max_context: int | None = None,
        openfold_features: OpenFoldFeatures | None = None,
    ) -> LearnedPropagator:
        """Frames of a protein with trained weights.

        Parameters
        ----------
        protein : Protein
        weights : Weights
        stride : float
            ps.
        seed : int
        atoms : {"ca", "backbone", "heavy"}
        device, steps, max_context, openfold_features
            As :func:`openmm_starmd.rollout.make_rollout` takes them.

        Raises
        ------
        ValueError
            If an argument does not fit the weights.
        """
        from openmm_starmd.rollout import make_rollout

        rollout = make_rollout(
            protein,
            weights,
            stride=stride,
            seed=seed,
            device=device,
            steps=steps,
            max_context=max_context,
            openfold_features=openfold_features,
        )
        return cls(
            protein,
            rollout,
            atoms=atoms,
            torsions=weights.config.torsions_trained,
            weights_id=fingerprint(weights, openfold_features),
            name=weights.name,
        )

    def next_frame(self, present: Present) -> Proposal:
        """Draw the next frame; see :meth:`Propagator.next_frame`."""
        # an interrupt while drawing leaves the rollout's memory in doubt
        held, self._held = self._held, None
        if present.fresh:
            start = _as_replica(present.backbone)
            self.rollout.seeds = (present.seed,)
            self.rollout.begin(start, present.number)
        elif held != (present.token, present.number, present.seed):
            self._restore(present)
        frame = self.rollout.step()
        backbone = frame.backbone[0].numpy()
        torsions = frame.torsions[0].numpy() if self._torsions else None
        proposal = Proposal(self._protein.frame_positions(backbone, self._atoms, torsions), backbone)
        self._held = (present.token_after(proposal), present.number + 1, present.seed)
        return proposal

    def state(self) -> None:
        """Nothing: what a rollout remembers follows from the history."""
        return None

    def _restore(self, present: Present) -> None:
        from openmm_starmd.rollout import kept_frames

        numbers = kept_frames(present.count, self.memory)
        frames = {number: _as_replica(backbone) for number, backbone in present.kept(numbers).items()}
        self.rollout.seeds = (present.seed,)
        self.rollout.restore(frames, present.count, present.number - present.count)


def fingerprint(weights: Weights, features: OpenFoldFeatures | None = None) -> str:
    """Digest of a network's configuration, parameters and extra input, whatever the weights are called."""
    hasher = hashlib.sha256(repr(weights.config).encode())
    for name, value in sorted(weights.network.state_dict().items()):
        hasher.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    for value in features or ():
        hasher.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def _as_replica(backbone: Array) -> torch.Tensor:
    """Backbone [N, 3, 3] as the batch of one, [1, N, 3, 3], that a rollout takes."""
    import torch

    return torch.from_numpy(np.array(backbone, dtype=np.float64))[None]
