"""Hybrid: what a simulation of learned frames can do with classical MD."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from openmm import app, unit

from openmm_starmd.errors import StarMDWarning
from openmm_starmd.quantities import in_unit, whole_number

if TYPE_CHECKING:
    from openmm_starmd.classical.model import ClassicalModel
    from openmm_starmd.classical.segment import Segment
    from openmm_starmd.integrator import StarMDIntegrator
    from openmm_starmd.protein.protein import Protein


class Hybrid(app.Simulation):
    """The classical side of :class:`~openmm_starmd.simulation.StarMDSimulation`, its one subclass."""

    protein: Protein
    integrator: StarMDIntegrator
    stride: unit.Quantity
    temperature: unit.Quantity
    _models: dict[tuple, ClassicalModel]
    _adopted: ClassicalModel | None

    def classical(self, *, minimize: int | None = 50, equilibrate: Any = 1.0, **settings: Any) -> Segment:
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
        from openmm_starmd.classical.segment import Segment
        from openmm_starmd.classical.settings import ClassicalSettings

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

    def classical_model(self, **settings: Any) -> ClassicalModel:
        """The all-atom model that :meth:`classical` with these settings runs in; built at first use, then kept.

        Parameters
        ----------
        **settings
            As for :meth:`classical`.
        """
        return self._model_of(self._classical_settings(settings))

    def _classical_settings(self, settings: dict[str, Any]) -> Any:
        from openmm_starmd.classical.settings import ClassicalSettings

        if self._adopted is not None:
            if not settings:
                return self._adopted
            if not {"forcefield", "solvent"} & set(settings):
                raise ValueError(
                    f"{', '.join(settings)}: segments run in the System, integrator and platform given to "
                    "fromSimulation(). Change them there, or give forcefield and solvent too, for a model apart from it"
                )
        return ClassicalSettings(**({"temperature": self.temperature} | settings))

    def _model_of(self, settings: Any) -> ClassicalModel:
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
        reporter: Any = None,
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
        from openmm_starmd.geometry.superposition import fitted

        self.integrator.require_no_segment()
        frame, model = self.integrator.present(), self.classical_model()
        model.enter(
            frame.backbone,
            frame.torsions,
            minimize=whole_number(maxIterations, "maxIterations") or None,
            equilibrate=0.0,
            tolerance=float(in_unit(tolerance, unit.kilojoules_per_mole / unit.nanometer)),
            reporter=reporter,
        )
        positions = model.positions()
        alphas = positions[model.backbone_atoms[:, 1]]
        rotation, shift = fitted(alphas, frame.backbone[:, 1])
        positions = positions @ rotation.T + shift
        self.integrator.stage_start(positions[model.backbone_atoms])
        self.context.setPositions(positions[model.frame_atoms(self.topology)])

    @classmethod
    def fromSimulation(cls, simulation: app.Simulation, **options: Any) -> Any:
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

    def validate(self, duration: Any = 10.0, **options: Any) -> Any:
        """Judge the current frame by a short classical run on the side; the simulation stays as it is.

        Parameters
        ----------
        duration : Quantity or float
            Bare numbers in ps; 0 only minimises.
        **options
            Of :func:`openmm_starmd.verdicts.verdict.validate`.

        Returns
        -------
        Verdict
        """
        from openmm_starmd.verdicts.verdict import validate

        self.integrator.require_no_segment()
        return validate(self, duration, **options)

    def alternate(self, **options: Any) -> Any:
        """Alternate between learned frames and classical segments.

        Parameters
        ----------
        **options
            Of :func:`openmm_starmd.hybrid.alternation.alternate`.
        """
        from openmm_starmd.hybrid.alternation import alternate

        self.integrator.require_no_segment()
        return alternate(self, **options)
