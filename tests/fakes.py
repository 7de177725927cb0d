"""Stand-ins for network and weights: a rollout that is cheap, deterministic and depends on its whole history."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import openmm as mm
import torch
from openmm import app, unit

from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.rollout import Frame, kept_frames
from openmm_starmd.simulation import StarMDSimulation


class FakeRollout:
    """The contract of Rollout: the next frame is a function of ALL kept frames plus noise keyed by seed and number."""

    def __init__(self, start, *, stride, seeds, settings):
        self.stride, self.seeds, self.settings = float(stride), tuple(seeds), settings
        self.restores = self.draws = 0
        self.delay = 0.0
        self.interrupt_at = None
        self.begin(start, 0)

    def begin(self, start, offset):
        self._frames, self.count, self.offset = {0: start.clone()}, 0, offset

    def restore(self, frames, count, offset):
        assert sorted(frames) == kept_frames(count, self.settings.max_context)
        self.restores += 1
        self._frames = {number: frame.clone() for number, frame in frames.items()}
        self.count, self.offset = count, offset

    def frames(self):
        return dict(self._frames)

    def step(self):
        self.draws += 1
        number = self.count + 1
        time.sleep(self.delay)
        noise = np.random.default_rng([self.seeds[0], self.offset + number])
        backbone = self._frames[0].clone()
        for kept, frame in sorted(self._frames.items()):
            backbone = backbone + torch.sin(17.0 * frame + kept) * 0.002 / (1 + number - kept)
        backbone = backbone + torch.from_numpy(noise.normal(0, 0.001, backbone.shape))
        torsions = torch.from_numpy(noise.uniform(-np.pi, np.pi, (*backbone.shape[:2], 5)))
        self._frames[number] = backbone
        if self.interrupt_at == number:  # as a Ctrl-C halfway through an update of the memory
            self.interrupt_at = None
            raise KeyboardInterrupt
        self.count = number
        self._frames = {n: self._frames[n] for n in kept_frames(number, self.settings.max_context)}
        return Frame(backbone, torsions)


def fake_make_rollout(
    protein, weights, *, stride, seed, device=None, steps=None, max_context=None, openfold_features=None
):
    """In place of ``openmm_starmd.rollout.make_rollout``."""
    settings = SamplerSettings(steps=steps or 2, max_context=max_context or weights.config.max_context)
    start = torch.as_tensor(protein.backbone)[None].clone()
    return FakeRollout(start, stride=stride, seeds=[seed], settings=settings)


def fake_weights(**changes):
    """Weights with a network of six numbers."""
    options = {"max_context": 4, "max_length": 1000, "torsions_trained": True, "name": "fake-v1"} | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Linear(2, 2)
    return SimpleNamespace(network=network, config=ModelConfig(**options), name="fake-v1", path=None)


def make_simulation(model, atoms="backbone", seed=3, weights=None, **options):
    """StarMDSimulation of (topology, positions) over the fake; the fixture `fake_rollout` must be active."""
    return StarMDSimulation(*model, atoms=atoms, seed=seed, weights=weights or fake_weights(), **options)


def helix(residues=8, chains=1, box=None):
    """Poly-alanine helices 3 nm apart, heavy atoms, as (topology, positions)."""
    local = {  # cylindrical: radius (nm), angle (degrees), height (nm); Arnott and Wonacott's alpha helix
        "N": (0.157, -27.3, -0.088),
        "CA": (0.229, 0.0, 0.0),
        "C": (0.168, 26.7, 0.111),
        "O": (0.202, 22.9, 0.232),
        "CB": (0.330, -19.3, -0.060),
    }
    topology, positions = app.Topology(), []
    elements = {name: app.element.get_by_symbol(name[0]) for name in local}
    for c in range(chains):
        chain = topology.addChain("ABCDEF"[c])
        for r in range(residues):
            residue = topology.addResidue("ALA", chain, str(r + 1))
            for name, (radius, angle, height) in local.items():
                topology.addAtom(name, elements[name], residue)
                turn = np.radians(angle + 100.0 * r)
                positions.append([radius * np.cos(turn) + 3.0 * c, radius * np.sin(turn), height + 0.15 * r])
    topology.createStandardBonds()
    if box is not None:
        topology.setPeriodicBoxVectors(np.diag([box] * 3) * unit.nanometer)
    return topology, unit.Quantity([mm.Vec3(*p) for p in positions], unit.nanometer)


def positions_of(simulation):
    """Positions [atoms, 3], nm."""
    return simulation.context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)


class Memory:
    """In-memory reporter: what every other reporter should have written."""

    def __init__(self, interval=1, periodic=None):
        self.interval, self.periodic, self.rows = interval, periodic, []

    def describeNextReport(self, simulation):
        wait = self.interval - simulation.currentStep % self.interval
        return {"steps": wait, "periodic": self.periodic, "include": ["positions"]}

    def report(self, simulation, state):
        time = state.getTime().value_in_unit(unit.picosecond)
        frame = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        self.rows.append((simulation.currentStep, time, frame))  # at once: an interrupt leaves no half a row

    steps = property(lambda self: [row[0] for row in self.rows])
    times = property(lambda self: [row[1] for row in self.rows])
    frames = property(lambda self: [row[2] for row in self.rows])


def trajectory(simulation, frames):
    """What a reporter sees of the next frames, [frames, atoms, 3], nm."""
    memory = Memory()
    simulation.reporters.append(memory)
    simulation.step(frames)
    simulation.reporters.remove(memory)
    return np.array(memory.frames)
