"""StarMDSimulation: an ``openmm.app.Simulation`` whose steps are frames drawn by STAR-MD."""

from __future__ import annotations

import hashlib
import os
import secrets
import warnings
from typing import IO, TYPE_CHECKING, Any
from xml.parsers import expat

import numpy as np
import openmm as mm
from openmm import app, unit

from openmm_starmd import checkpoint
from openmm_starmd.context import frame_system
from openmm_starmd.errors import StarMDWarning, Uncopiable
from openmm_starmd.hybrid.switching import Hybrid
from openmm_starmd.integrator import StarMDIntegrator
from openmm_starmd.protein.protein import Protein, describe_differences
from openmm_starmd.quantities import as_array, in_unit, whole_number

if TYPE_CHECKING:
    import torch

    from openmm_starmd.model.config import ModelConfig
    from openmm_starmd.model.openfold import OpenFoldFeatures
    from openmm_starmd.model.weights import Weights

ATOMS = ("ca", "backbone", "heavy")


class StarMDSimulation(Uncopiable, Hybrid):
    """Protein dynamics frame by frame, in place of molecular dynamics step by step.

    It is OpenMM's own Simulation: reporters, ``step``, ``runForClockTime``, ``context`` and checkpoints are used as
    ever. One step is one frame, ``simulation.stride`` after the one before:

    >>> from sys import stdout
    >>> from openmm.app import DCDReporter, PDBFile, StateDataReporter
    >>> from openmm_starmd import StarMDSimulation
    >>> pdb = PDBFile("protein.pdb")                           # solvent and ions may be in it; they are left out
    >>> simulation = StarMDSimulation(pdb.topology, pdb.positions, seed=1)
    >>> with open("frames.pdb", "w") as file:                  # the topology of the frames, for viewers
    ...     PDBFile.writeFile(simulation.topology, simulation.context.getState(positions=True).getPositions(), file)
    >>> simulation.reporters.append(DCDReporter("frames.dcd", 1))
    >>> simulation.reporters.append(StateDataReporter(stdout, 10, step=True, time=True, speed=True))
    >>> simulation.step(100)
    >>> simulation.saveCheckpoint("run.chk")                   # or saveState("run.xml")

    and later, bit by bit as if never interrupted:

    >>> simulation = StarMDSimulation(pdb.topology, pdb.positions)
    >>> simulation.loadCheckpoint("run.chk")                   # brings the seed too
    >>> simulation.reporters.append(DCDReporter("frames.dcd", 1, append=True))
    >>> simulation.step(100)

    Classical MD takes over for a while, in the same trajectory, and judges a frame on the side:

    >>> with simulation.classical() as md:
    ...     simulation.step(2)
    >>> print(simulation.validate(10 * picoseconds))

    Parameters
    ----------
    topology : openmm.app.Topology
        Contains a protein, prepared or not. What is not protein is dropped, with a warning.
    positions : Quantity or array [atoms, 3]
        Bare numbers are nm.
    stride : Quantity or float, optional
        Time between frames, bare numbers in ps; the weights' default. Constant for the simulation's life.
    device : str or torch.device, optional
        Where the network runs; a GPU where there is one.
    seed : int, optional
        In [0, 2^63). One is drawn if none is given; ``simulation.seed`` tells it. On one machine the same seed gives
        the same trajectory.
    temperature : Quantity or float, optional
        K. Only what the weights were trained at.
    weights : str, path or Weights, optional
        Bundled name, directory or safetensors file; ``openmm_starmd.model.weights.DEFAULT_WEIGHTS`` by default.
    atoms : {"heavy", "backbone", "ca"}, optional
        Which atoms frames have: all heavy atoms, N CA C O, or CA. Heavy if the weights have trained side chains, else
        backbone.
    steps, max_context : int, optional
        Denoising steps per frame and frames of history; the weights' own.
    openfold_features : OpenFoldFeatures, optional
        For weights that condition on them, and for no others; see
        :func:`openmm_starmd.model.openfold.load_openfold_features`.

    Attributes
    ----------
    topology : openmm.app.Topology
        Of the frames.
    protein : Protein
        What the input was read as.
    stride : Quantity
    seed : int
    temperature : Quantity

    Raises
    ------
    ValueError
        If an argument does not fit the weights, or the input is no protein that can be read; says what to do.

    Notes
    -----
    Global motion is removed: each frame is superposed on the one before (least squares over CA), so a molecule neither
    tumbles nor drifts, and diffusion through the box cannot be read from a trajectory. Several chains are superposed as
    one body; their motion relative to each other stays.

    Energies, forces and velocities do not exist. They read zero, asking for them warns once, and the temperature is
    nan.

    Setting positions starts a new history from them, with random draws not used before. An interrupt (Ctrl-C) leaves
    positions, time, step and history at the last complete frame.
    """

    def __init__(
        self,
        topology: app.Topology,
        positions: Any,
        *,
        stride: Any = None,
        device: str | torch.device | None = None,
        seed: int | None = None,
        temperature: Any = None,
        weights: str | os.PathLike[str] | Weights | None = None,
        atoms: str | None = None,
        steps: int | None = None,
        max_context: int | None = None,
        openfold_features: OpenFoldFeatures | None = None,
    ) -> None:
        from openmm_starmd.model.weights import DEFAULT_WEIGHTS, load_weights
        from openmm_starmd.rollout import make_rollout

        weights = DEFAULT_WEIGHTS if weights is None else weights
        if isinstance(weights, (str, os.PathLike)):
            weights = load_weights(weights)
        config = weights.config
        picoseconds = _check_stride(stride, config, weights.name)
        _check_temperature(temperature, config, weights.name)
        if seed is None:
            seed = secrets.randbits(32)
        elif isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed!r}; it must be an integer in [0, 2^63)")
        if atoms is None:
            atoms = "heavy" if config.torsions_trained else "backbone"
        if atoms not in ATOMS:
            raise ValueError(f"atoms is {atoms!r}; choose one of {', '.join(map(repr, ATOMS))}")

        self.protein = Protein.from_openmm(topology, positions)
        # all weights so far are trained on single chains
        differences = describe_differences(self.protein, config.max_length, multichain=False)
        if differences:
            warnings.warn(differences, StarMDWarning, stacklevel=2)
        self.stride = picoseconds * unit.picosecond
        self.temperature = config.temperature * unit.kelvin
        self.atoms = atoms
        self._input_topology = topology
        self._models, self._adopted = {}, None
        rollout = make_rollout(
            self.protein,
            weights,
            stride=picoseconds,
            seed=int(seed),
            device=device,
            steps=steps,
            max_context=max_context,
            openfold_features=openfold_features,
        )
        integrator = StarMDIntegrator(
            self.protein,
            rollout,
            atoms=atoms,
            torsions=config.torsions_trained,
            weights_id=_fingerprint(weights, openfold_features),
        )
        frame_topology = self.protein.frame_topology(atoms)
        system = frame_system(frame_topology, self.protein.box)
        super().__init__(frame_topology, system, integrator, mm.Platform.getPlatformByName("Reference"))
        integrator.bind(self.context)
        self.context.setPositions(self.protein.frame_positions(self.protein.backbone, atoms))

    @property
    def seed(self) -> int:
        """Seed of the random draws: the one given or drawn, or the one a loaded checkpoint brought."""
        return self.integrator.seed

    def step(self, steps: int) -> None:
        """Draw `steps` frames, reporting as reporters ask.

        Parameters
        ----------
        steps : int
            At least 0; ``step(1.0)`` is accepted, ``step(1.5)`` is a ValueError.
        """
        super().step(whole_number(steps))

    def setPositions(self, positions: Any) -> None:
        """Start a new history from another structure of the input; time and step count go on.

        Positions of a frame, ``simulation.topology``'s atoms, go to ``simulation.context.setPositions()``.

        Parameters
        ----------
        positions : Quantity or array [atoms, 3]
            Of all atoms of the topology given to the constructor; bare numbers in nm.
        """
        self.integrator.require_no_segment()
        values = as_array(positions)
        expected = self._input_topology.getNumAtoms()
        if len(values) != expected:
            raise ValueError(
                f"{len(values)} positions given, but the constructor's topology has {expected} atoms. Positions of a "
                "frame go to simulation.context.setPositions()"
            )
        with warnings.catch_warnings():
            # the constructor has said what is left out
            warnings.simplefilter("ignore", UserWarning)
            start = Protein.from_openmm(self._input_topology, values * unit.nanometer)
        self.integrator.stage_start(start.backbone)
        self.context.setPositions(start.frame_positions(start.backbone, self.atoms))

    def saveCheckpoint(self, file: str | os.PathLike[str] | IO) -> None:
        """Save all that is needed to go on exactly, history and random state included.

        Inside a classical segment the state of the all-atom simulation goes with it.

        Parameters
        ----------
        file : path or binary file
        """
        segment = self.integrator.segment
        state = self.integrator.pending if segment is None else segment.state()
        checkpoint.write(file, checkpoint.pack(self.context.createCheckpoint(), state))

    def loadCheckpoint(self, file: str | os.PathLike[str] | IO) -> None:
        """Go on exactly where saveCheckpoint() was called.

        Parameters
        ----------
        file : path or binary file
            A ValueError is raised, and nothing changes, if it was saved by a simulation of another protein, start
            structure, weights or settings, or is damaged. The seed comes with the file.

        Notes
        -----
        After a file that was saved inside a classical segment, ``with simulation.classical(...)`` with the settings of
        that segment is inside it again, exactly on platforms that are deterministic (Reference);
        :meth:`leaveSegment` goes on with learned frames instead.
        """
        frames, segment = checkpoint.unpack(checkpoint.read(file))
        self.context.loadCheckpoint(frames)
        self.integrator.pending = segment

    def saveState(self, file: str | os.PathLike[str] | IO) -> None:
        """Save as XML, with the history: as exact as a checkpoint, and readable by other OpenMM versions.

        Parameters
        ----------
        file : path or text file

        Raises
        ------
        ValueError
            Inside a classical segment, whose random state a State cannot hold.
        """
        if self.integrator.segment is not None or self.integrator.pending is not None:
            raise ValueError(
                "a State cannot hold a classical segment: use saveCheckpoint(), or save before or after the segment"
            )
        state = self.context.getState(positions=True, velocities=True, parameters=True, integratorParameters=True)
        checkpoint.write(file, mm.XmlSerializer.serialize(state))

    def loadState(self, file: str | os.PathLike[str] | IO) -> None:
        """Go on exactly where saveState() was called.

        Parameters
        ----------
        file : path or text file
            A ValueError is raised, and nothing changes, if it is foreign, as for loadCheckpoint().
        """
        try:
            xml = checkpoint.read(file)
            # OpenMM's own parser may read beyond the end of a truncated file
            expat.ParserCreate().Parse(xml, True)
            state = mm.XmlSerializer.deserialize(xml.decode())
        except (mm.OpenMMException, expat.ExpatError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"not an XML state of OpenMM: {error}") from error
        if not isinstance(state, mm.State):
            raise ValueError(f"the XML holds a {type(state).__name__}, not a State")
        context = self.context
        context.load_guarded(lambda: mm.Context.setState(context, state), whole=True)


def _check_stride(stride: Any, config: ModelConfig, name: str) -> float:
    """Stride in ps, or a ValueError."""
    value = config.stride_default if stride is None else in_unit(stride, unit.picosecond)
    try:
        value = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"stride is {stride!r}; give a time, or a number of ps") from error
    if not config.stride_min <= value <= config.stride_max:
        raise ValueError(
            f"stride {value:g} ps lies outside the {config.stride_min:g} to {config.stride_max:g} ps that {name} was "
            "trained on"
        )
    return value


def _check_temperature(temperature: Any, config: ModelConfig, name: str) -> None:
    if temperature is None:
        return
    try:
        value = float(in_unit(temperature, unit.kelvin))
    except (TypeError, ValueError) as error:
        raise ValueError(f"temperature is {temperature!r}; give a temperature, or a number of K") from error
    if abs(value - config.temperature) > 1e-6:
        raise ValueError(
            f"temperature {value:g} K: {name} was trained at {config.temperature:g} K and knows no other. Leave "
            "temperature out, or use weights trained at yours"
        )


def _fingerprint(weights: Weights, features: OpenFoldFeatures | None) -> str:
    """Digest of a network's configuration, parameters and extra input, whatever the weights are called."""
    hasher = hashlib.sha256(repr(weights.config).encode())
    for name, value in sorted(weights.network.state_dict().items()):
        hasher.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    for value in features or ():
        hasher.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()
