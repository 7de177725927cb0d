"""StarMDSimulation: an ``openmm.app.Simulation`` whose steps are frames drawn by STAR-MD, or by another propagator."""

from __future__ import annotations

import math
import os
import secrets
import warnings
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any, TypedDict, Unpack
from xml.parsers import expat

import numpy as np
import openmm as mm
from openmm import app, unit

from openmm_starmd import checkpoint
from openmm_starmd.classical.settings import ClassicalOptions, ClassicalSettings
from openmm_starmd.context import frame_system
from openmm_starmd.errors import StarMDWarning, Uncopiable, keyboard_interrupts
from openmm_starmd.integrator import CHI, StarMDIntegrator
from openmm_starmd.propagators import LearnedPropagator, find_propagator
from openmm_starmd.protein.protein import ATOMS, Protein, describe_differences
from openmm_starmd.quantities import as_array, in_unit, keywords_of, whole_number

if TYPE_CHECKING:
    import torch

    from openmm_starmd.calibration import Calibration
    from openmm_starmd.classical.model import ClassicalModel
    from openmm_starmd.hybrid.alternation import Alternation
    from openmm_starmd.hybrid.segment import Segment
    from openmm_starmd.model.openfold import OpenFoldFeatures
    from openmm_starmd.model.weights import Weights
    from openmm_starmd.propagators import Propagator
    from openmm_starmd.verdicts.limits import Limits, Spread
    from openmm_starmd.verdicts.report import Verdict

ROOM_TEMPERATURE = 300.0
"""K, of classical segments where a propagator of another's making says nothing about temperature."""


class SimulationOptions(TypedDict, total=False):
    """The keywords of :class:`StarMDSimulation`."""

    stride: Any
    device: str | torch.device | None
    seed: int | None
    temperature: Any
    weights: str | os.PathLike[str] | Weights | None
    atoms: str | None
    steps: int | None
    max_context: int | None
    openfold_features: OpenFoldFeatures | None
    propagator: str | Propagator | Callable[..., Propagator] | None


class StarMDSimulation(Uncopiable, app.Simulation):
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
    propagator : str, Propagator or callable, optional
        What makes the frames in place of trained weights: a :class:`~openmm_starmd.propagators.Propagator`, what makes
        one (called as ``propagator(protein, stride=..., atoms=...)``), or the name of an entry point. It needs
        `stride`, and cannot be given together with `weights`, `device`, `steps`, `max_context` or `openfold_features`.

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

    Setting positions starts a new history from them, with random draws not used before. Of weights whose configuration
    says ``lasting_reference`` they are the new reference structure too, torsions included, and frames go on as those of
    a new simulation would; only where ``context.setPositions()`` is given frames without side chains, χ angles stay
    those of the reference before. A classical segment leaves that reference alone. Other weights take the start of each
    history for their reference, with the torsions of the constructor's positions.

    An interrupt (Ctrl-C) leaves positions, time, step and history at the last complete frame.
    """

    protein: Protein
    integrator: StarMDIntegrator

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
        propagator: str | Propagator | Callable[..., Propagator] | None = None,
    ) -> None:
        learned = {
            "weights": weights,
            "device": device,
            "steps": steps,
            "max_context": max_context,
            "openfold_features": openfold_features,
        }
        loaded: Weights | None = None
        if propagator is None:
            loaded = _load(weights)
            picoseconds, kelvin = _stride(stride, loaded), _temperature(temperature, loaded)
        else:
            _refuse(learned, stride)
            picoseconds, kelvin = _positive("stride", stride, unit.picosecond), ROOM_TEMPERATURE
            if temperature is not None:
                kelvin = _positive("temperature", temperature, unit.kelvin)
        chosen_seed = _seed(seed)
        if atoms is None:
            atoms = "heavy" if loaded is not None and loaded.config.torsions_trained else "backbone"
        if atoms not in ATOMS:
            raise ValueError(f"atoms is {atoms!r}; choose one of {', '.join(map(repr, ATOMS))}")

        self.protein = Protein.from_openmm(topology, positions)
        self.stride = picoseconds * unit.picosecond
        self.temperature = kelvin * unit.kelvin
        self.atoms = atoms
        self._input_topology = topology
        self._models: dict[tuple[Any, ...], ClassicalModel] = {}
        self._adopted: ClassicalModel | None = None
        if loaded is None:
            assert propagator is not None
            maker = find_propagator(propagator, self.protein, stride=picoseconds, atoms=atoms)
        else:
            # all weights so far are trained on single chains
            differences = describe_differences(self.protein, loaded.config.max_length, multichain=False)
            if differences:
                warnings.warn(differences, StarMDWarning, stacklevel=2)
            maker = LearnedPropagator.from_weights(
                self.protein,
                loaded,
                stride=picoseconds,
                seed=chosen_seed,
                atoms=atoms,
                device=device,
                steps=steps,
                max_context=max_context,
                openfold_features=openfold_features,
            )
        integrator = StarMDIntegrator(self.protein, maker, stride=picoseconds, seed=chosen_seed, atoms=atoms)
        frame_topology = self.protein.frame_topology(atoms)
        system = frame_system(frame_topology, self.protein.box)
        super().__init__(frame_topology, system, integrator, mm.Platform.getPlatformByName("Reference"))
        integrator.bind(self.context)
        self._start_from(self.protein)

    def _start_from(self, start: Protein) -> None:
        """Begin from a structure of the protein."""
        # staged before, since positions of CA alone are taken only where the start is known, and once more for the side
        # chains, of which the input tells more than a frame
        self.integrator.stage_protein(start)
        self.context.setPositions(start.frame_positions(start.backbone, self.atoms))
        self.integrator.stage_protein(start)

    def __repr__(self) -> str:
        propagator = self.integrator.propagator
        maker = getattr(propagator, "name", "") or type(propagator).__name__
        stride = self.stride.value_in_unit(unit.picosecond)
        return (
            f"<StarMDSimulation: {self.protein.length} residues, {self.atoms}, {stride:g} ps, "
            f"frame {self.currentStep}, {maker}>"
        )

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
        with keyboard_interrupts():
            super().step(whole_number(steps))

    def setPositions(self, positions: Any) -> None:
        """Start a new history from another structure of the input; time and step count go on.

        Of weights with a lasting reference that structure is the new one, as the constructor's was.

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
        self._start_from(start)

    def saveCheckpoint(self, file: str | os.PathLike[str] | IO[bytes]) -> None:
        """Save all that is needed to go on exactly, history and random state included.

        Inside a classical segment the state of the all-atom simulation goes with it.

        Parameters
        ----------
        file : path or binary file
        """
        checkpoint.write(file, checkpoint.pack(self._contents()))

    def _contents(self) -> checkpoint.Contents:
        """What a checkpoint of this moment holds."""
        integrator = self.integrator
        segment = integrator.pending if integrator.segment is None else integrator.segment.state()
        return checkpoint.Contents(self.context.createCheckpoint(), segment, integrator.state_to_save())

    def loadCheckpoint(self, file: str | os.PathLike[str] | IO[bytes]) -> None:
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
        contents = checkpoint.unpack(checkpoint.read(file))
        self.context.loadCheckpoint(contents.frames)
        self.integrator.pending = contents.segment
        self.integrator.bring_state(contents.propagator)

    def saveState(self, file: str | os.PathLike[str] | IO[str]) -> None:
        """Save as XML, with the history: as exact as a checkpoint, and readable by other OpenMM versions.

        Parameters
        ----------
        file : path or text file

        Raises
        ------
        ValueError
            Inside a classical segment, whose random state a State cannot hold, and where the propagator has a state of
            its own.
        """
        contents = self._contents()
        if self.integrator.segment is not None or contents.segment is not None:
            raise ValueError(
                "a State cannot hold a classical segment: use saveCheckpoint(), or save before or after the segment"
            )
        if contents.propagator is not None:
            raise ValueError("a State cannot hold the state of this propagator: use saveCheckpoint()")
        state = self.context.getState(positions=True, velocities=True, parameters=True, integratorParameters=True)
        checkpoint.write(file, mm.XmlSerializer.serialize(state))

    def loadState(self, file: str | os.PathLike[str] | IO[str]) -> None:
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

    @keywords_of(ClassicalSettings)
    def classical(
        self, *, minimize: int | None = 50, equilibrate: Any = 1.0, **settings: Unpack[ClassicalOptions]
    ) -> Segment:
        """Classical MD from the current frame, for a ``with`` statement.

        >>> with simulation.classical() as md:                    # md is the all-atom openmm.app.Simulation
        ...     md.reporters.append(DCDReporter("all_atoms.dcd", 250))
        ...     simulation.step(2)                                # two strides: same reporters, same atoms, same clock

        Parameters
        ----------
        minimize : int or None
            Most iterations of the minimiser on entry; 0 for none, None to convergence.
        equilibrate : Quantity or float
            Dynamics after that, before the clock goes on; bare numbers in ps.
        **settings
            Of :class:`~openmm_starmd.classical.settings.ClassicalSettings`: `forcefield`, `solvent`, `timestep`,
            `integrator`, `platform` and others. A model is built at the first use of settings and kept. Without any,
            the model is the one of :meth:`fromSimulation`, or amber14 in OBC2 at the temperature of the weights.

        Returns
        -------
        Segment
            Entered by ``with``, it gives the all-atom Simulation. Inside, ``simulation.step(n)`` advances n strides of
            classical MD and ``md.step(k)`` k time steps; whichever completes a stride makes a frame. Frames are
            superposed on the one before, as learned ones are. Reporters added to ``md`` end with the segment.

        Raises
        ------
        ValueError
            If the stride is no whole number of time steps, on leaving in the middle of a stride (it names the steps
            missing), or on entering a second segment.

        Notes
        -----
        The frames of a segment become the history that learned frames go on from, with the structure they started from,
        minimised and equilibrated, as its first; a segment without a frame changes nothing. However a segment ends, by
        an exception or Ctrl-C too, the simulation is at its last whole frame.

        What is random in a segment depends only on the seed and the number of the frame that it starts from.
        """
        from openmm_starmd.hybrid.segment import Segment

        made = self._classical_settings(settings)
        picoseconds = float(in_unit(equilibrate, unit.picosecond))
        if not 0 <= picoseconds < float("inf"):
            raise ValueError(f"equilibrate is {equilibrate}; it must be a time, at least 0")
        iterations = None if minimize is None else whole_number(minimize, "minimize")
        decisive = made if isinstance(made, ClassicalSettings) else made.settings
        return Segment(
            self,
            lambda: self._model_of(made),
            timestep=decisive.timestep,
            minimize=iterations,
            equilibrate=picoseconds,
        )

    @keywords_of(ClassicalSettings)
    def classical_model(self, **settings: Unpack[ClassicalOptions]) -> ClassicalModel:
        """The all-atom model that :meth:`classical` with these settings runs in; built at first use, then kept.

        Parameters
        ----------
        **settings
            As for :meth:`classical`.
        """
        return self._model_of(self._classical_settings(settings))

    def _classical_settings(self, settings: ClassicalOptions) -> ClassicalSettings | ClassicalModel:
        if self._adopted is not None:
            if not settings:
                return self._adopted
            if not {"forcefield", "solvent"} & set(settings):
                raise ValueError(
                    f"{', '.join(settings)}: segments run in the System, integrator and platform given to "
                    "fromSimulation(). Change them there, or give forcefield and solvent too, for a model apart from it"
                )
        return ClassicalSettings(**({"temperature": self.temperature} | settings))

    def _model_of(self, settings: ClassicalSettings | ClassicalModel) -> ClassicalModel:
        from openmm_starmd.classical.model import ClassicalModel

        if isinstance(settings, ClassicalModel):
            return settings
        if settings.key not in self._models:
            self._models[settings.key] = ClassicalModel(self.protein, settings)
        return self._models[settings.key]

    def leaveSegment(self) -> None:
        """Go on with learned frames after loading a checkpoint that was saved inside a classical segment.

        The simulation is at the last whole frame of the segment; a stride begun is given up.
        """
        self.integrator.require_no_segment()
        self.integrator.pending = None

    def minimizeEnergy(
        self,
        tolerance: Any = 10 * unit.kilojoules_per_mole / unit.nanometer,
        maxIterations: int = 0,
        reporter: mm.MinimizationReporter | None = None,
    ) -> None:
        """Minimise the energy of the all-atom model of :meth:`classical`, and start a new history from the result.

        Parameters
        ----------
        tolerance : Quantity or float
            Root mean square of the force where it ends; bare numbers in kJ/mol/nm.
        maxIterations : int
            0 to convergence.
        reporter : openmm.MinimizationReporter, optional
        """
        from openmm_starmd.geometry.superposition import aligned

        self.integrator.require_no_segment()
        with keyboard_interrupts():
            frame, model = self.integrator.present(), self.classical_model()
            model.enter(
                frame.backbone,
                frame.torsions,
                minimize=whole_number(maxIterations, "maxIterations") or None,
                equilibrate=0.0,
                tolerance=float(in_unit(tolerance, unit.kilojoules_per_mole / unit.nanometer)),
                reporter=reporter,
            )
            positions, torsions = model.positions(), model.torsions()
        alphas = positions[model.backbone_atoms[:, 1]]
        rotation, shift = aligned(alphas, frame.backbone[:, 1])
        positions = positions @ rotation.T + shift
        self.integrator.stage_start(positions[model.backbone_atoms])
        self.context.setPositions(positions[model.frame_atoms(self.topology)])
        self.integrator.stage_chi(torsions[:, CHI])

    @classmethod
    @keywords_of(__init__, leave_out=("self", "topology", "positions"))
    def fromSimulation(cls, simulation: app.Simulation, **options: Unpack[SimulationOptions]) -> StarMDSimulation:
        """Learned frames of the protein in a classical simulation, whose System its classical segments run in.

        >>> simulation = Simulation(pdb.topology, system, integrator)     # any OpenMM script
        >>> simulation.context.setPositions(pdb.positions)
        >>> simulation = StarMDSimulation.fromSimulation(simulation)      # the added line

        Parameters
        ----------
        simulation : openmm.app.Simulation
            Its topology, positions, box, System, integrator, platform and context parameters are taken. System and
            integrator are copied and the Context is a new one, so that `simulation` stays as it is and can be used
            on. Reporters, time and step count are not taken over.
        **options
            Of StarMDSimulation.

        Returns
        -------
        StarMDSimulation
            Without arguments, ``classical()``, ``minimizeEnergy()``, ``validate()`` and ``alternate()`` use it.

        Raises
        ------
        ValueError
            If the simulation has no positions, its integrator no constant time step, or a residue lacks atoms.

        Warns
        -----
        StarMDWarning
            Once, listing what learned frames cannot honour: barostat, restraints, another temperature, ...
        """
        from openmm_starmd.classical.adoption import adopt, not_honoured, positions_of

        topology, positions = positions_of(simulation)
        made = cls(topology, positions, **options)
        temperature = made.temperature.value_in_unit(unit.kelvin)
        made._adopted = adopt(simulation, made.protein, topology, positions, temperature)
        notes = not_honoured(made._adopted, temperature)
        if notes:
            warnings.warn(
                "classical segments run in the System given, but learned frames do not honour " + "; ".join(notes),
                StarMDWarning,
                stacklevel=2,
            )
        return made

    @property
    def amplitude(self) -> float:
        """Factor on the motion that an elastic prior expects of the protein, as :meth:`calibrate` found it; else 1."""
        return math.exp(self.integrator.amplitude)

    @keywords_of(ClassicalSettings)
    def calibrate(
        self,
        duration: Any = 20.0,
        *,
        minimize: int | None = 100,
        equilibrate: Any = 2.0,
        on_frame: Callable[[int, int], None] | None = None,
        **settings: Unpack[ClassicalOptions],
    ) -> Calibration:
        """Fit how widely the protein moves to a short classical run of it on the side.

        >>> print(simulation.calibrate(20 * picoseconds))
        <Calibration: amplitude 0.82 (0.70 to 0.96), from 21 frames of 20 ps of classical MD>

        Weights with an elastic prior expect a protein to move as widely as others of its size and kind do. The factor
        that is found scales that from the next frame on. Positions, history, step count and time stay as they are.

        Parameters
        ----------
        duration : Quantity or float
            Of classical MD from the current frame, bare numbers in ps; at least 5.
        minimize : int or None
            Most iterations of the minimiser before; 0 for none, None to convergence.
        equilibrate : Quantity or float
            Dynamics after that, before frames are looked at; bare numbers in ps.
        on_frame : callable, optional
            Called with the number of frames there are and that of all, for a bar.
        **settings
            As for :meth:`classical`.

        Returns
        -------
        Calibration

        Raises
        ------
        ValueError
            If the weights have no elastic prior, the run is too short, or a classical segment is running.

        Notes
        -----
        The factor belongs to what decides frames: checkpoints and States bring theirs, as they bring the seed. What is
        random in the run depends only on the seed and the number of the frame that it starts from.
        """
        from openmm_starmd.calibration import calibrate

        picoseconds = float(in_unit(equilibrate, unit.picosecond))
        if not 0 <= picoseconds < float("inf"):
            raise ValueError(f"equilibrate is {equilibrate}; it must be a time, at least 0")
        with keyboard_interrupts():
            found = calibrate(
                self,
                duration,
                minimize=None if minimize is None else whole_number(minimize, "minimize"),
                equilibrate=picoseconds,
                on_frame=on_frame,
                **settings,
            )
        self.integrator.set_amplitude(found.log_amplitude)
        return found

    @keywords_of(ClassicalSettings)
    def validate(
        self,
        duration: Any = 10.0,
        *,
        minimize: int | None = 100,
        seed: int = 0,
        spread: Spread | None = None,
        limits: Limits | None = None,
        stop_if_broken: bool = False,
        **settings: Unpack[ClassicalOptions],
    ) -> Verdict:
        """Judge the current frame by a short classical run on the side; the simulation stays as it is.

        Parameters
        ----------
        duration : Quantity or float
            Bare numbers in ps; 0 only minimises.
        minimize, seed, spread, limits, stop_if_broken
            As for :func:`openmm_starmd.verdicts.verdict.validate`, whose limits are the default.
        **settings
            As for :meth:`classical`.

        Returns
        -------
        Verdict
        """
        from openmm_starmd.verdicts.limits import LIMITS
        from openmm_starmd.verdicts.verdict import validate

        self.integrator.require_no_segment()
        with keyboard_interrupts():
            return validate(
                self,
                duration,
                minimize=minimize,
                seed=seed,
                spread=spread,
                limits=LIMITS if limits is None else limits,
                stop_if_broken=stop_if_broken,
                **settings,
            )

    def alternate(
        self,
        *,
        cycles: int,
        surrogate: int = 50,
        classical: int = 2,
        validate_every: int = 1,
        duration: Any = 2.0,
        accept: str | Sequence[str] = ("pass", "strained"),
        attempts: int = 3,
        minimize: int | None = 100,
        log: str | os.PathLike[str] | None = None,
        trajectory: str | os.PathLike[str] | None = None,
        on_verdict: Callable[[Verdict, bool], None] | None = None,
        settings: ClassicalOptions | None = None,
    ) -> Alternation:
        """Alternate between learned frames and classical segments.

        >>> simulation.alternate(cycles=20, surrogate=50, classical=2, log="hybrid.jsonl", trajectory="hybrid.dcd")

        Parameters
        ----------
        cycles, surrogate, classical, validate_every, duration, accept, attempts, minimize
            As for :func:`openmm_starmd.hybrid.alternation.alternate`.
        log, trajectory, on_verdict, settings
            As there.

        Returns
        -------
        Alternation
        """
        from openmm_starmd.hybrid.alternation import alternate

        self.integrator.require_no_segment()
        with keyboard_interrupts():
            return alternate(
                self,
                cycles=cycles,
                surrogate=surrogate,
                classical=classical,
                validate_every=validate_every,
                duration=duration,
                accept=accept,
                attempts=attempts,
                minimize=minimize,
                log=log,
                trajectory=trajectory,
                on_verdict=on_verdict,
                settings=settings,
            )


def _load(weights: str | os.PathLike[str] | Weights | None) -> Weights:
    from openmm_starmd.model.weights import DEFAULT_WEIGHTS, load_weights

    weights = DEFAULT_WEIGHTS if weights is None else weights
    return load_weights(weights) if isinstance(weights, (str, os.PathLike)) else weights


def _stride(stride: Any, weights: Weights) -> float:
    """Stride in ps, or a ValueError."""
    value = weights.config.stride_default if stride is None else in_unit(stride, unit.picosecond)
    try:
        value = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"stride is {stride!r}; give a time, or a number of ps") from error
    weights.config.check_stride(value, weights.name)
    return value


def _temperature(temperature: Any, weights: Weights) -> float:
    """Temperature in K, or a ValueError."""
    trained = weights.config.temperature
    if temperature is None:
        return trained
    try:
        value = float(in_unit(temperature, unit.kelvin))
    except (TypeError, ValueError) as error:
        raise ValueError(f"temperature is {temperature!r}; give a temperature, or a number of K") from error
    if not abs(value - trained) <= 1e-6:
        raise ValueError(
            f"temperature {value:g} K: {weights.name} was trained at {trained:g} K and knows no other. Leave "
            "temperature out, or use weights trained at yours"
        )
    return trained


def _refuse(learned: dict[str, Any], stride: Any) -> None:
    """Raise a ValueError for what goes with weights alone, or for a stride that is missing."""
    given = [name for name, value in learned.items() if value is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)}: these are about learned frames, and propagator= makes others. Leave them out"
        )
    if stride is None:
        raise ValueError("a propagator has no default stride: give stride=, the time between its frames")


def _positive(what: str, value: Any, of: unit.Unit) -> float:
    try:
        bare = float(in_unit(value, of))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} is {value!r}; give a quantity, or a number of {of.get_name()}") from error
    if not 0 < bare < float("inf"):
        raise ValueError(f"{what} is {value}; it must be positive and finite")
    return bare


def _seed(seed: int | None) -> int:
    """The seed, drawn where there is none, or a ValueError."""
    if seed is None:
        return secrets.randbits(32)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed!r}; it must be an integer in [0, 2^63)")
    return int(seed)
