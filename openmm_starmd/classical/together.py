"""MD of many proteins in one OpenMM Context, far apart: how a GPU makes MD of many small proteins at once.

A GPU is idle for most of a time step of one small protein. Here many stand on a grid, further apart than the cutoff,
and move in one Context as if each were alone. Files are those of ``make_replica``, so that each may go on in other
company, on another machine or alone.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import openmm as mm

from openmm_starmd.atoms.systems import MoleculeTerms
from openmm_starmd.classical.company import Company, Member, Trouble, capacity
from openmm_starmd.classical.many import held, named_inputs, prepare_models, reason
from openmm_starmd.classical.recording import RunFiles
from openmm_starmd.classical.replicas import (
    Observer,
    PreparedModel,
    Protocol,
    make_context,
    make_integrator,
    make_system,
    prepare,
)

CUTOFF = 3.0
"""nm: forces are within 0.7 of an rms of 700 kJ/mol/nm of those without a cutoff."""
_SAVE = 20.0  # seconds between saves
_TRIES = 3  # where OpenMM fails and no protein is to blame


def make_data_together(
    inputs: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    duration: float,
    *,
    seconds: float | None = None,
    replicas: int = 1,
    interval: float | None = None,
    fine: float | None = None,
    cutoff: float | None = None,
    platform: str | None = None,
    workers: int = 1,
    per_context: int | None = None,
    chunk: int | None = None,
    protocol: Protocol | None = None,
    report: Callable[[str], object] = print,
    observe: Observer | None = None,
) -> dict[str, str]:
    """Run replicas of many proteins in one Context to `duration`, or for so many seconds.

    Files are those of :func:`~openmm_starmd.classical.replicas.make_replica`, a folder for each protein. Run the same
    again to go on: after a kill at any moment, with a longer duration, or with more seconds. Models that are there
    already (``NAME/NAME.model.pdb``) are used as they are, so that hydrogens may be added and models minimised
    beforehand, where there is time: ``make_data(inputs, output, 0)``.

    Parameters
    ----------
    inputs : iterable of path
        PDB or mmCIF files of complete proteins; the file's stem names the folder.
    output : path
        Root of the ATLAS-style tree.
    duration : float
        Picoseconds of production per replica in total; 0 only prepares the models.
    seconds : float, optional
        Wall clock of production (building the Context and equilibration included, preparation not), at the end of
        which everything is saved: a second or two more. Shared evenly where the runs do not fit into one Context.
    replicas : int
        Per protein, numbered from 1.
    interval : float, optional
        Picoseconds between frames; the protocol's (1) by default.
    fine : float, optional
        Picoseconds at the start of each run of which frames every picosecond (the protocol's ``fine_interval``) are
        written as well, to ``output/fine/NAME/``, a tree of its own in the same layout; 0 by default.
    cutoff : float, optional
        nm; the protocol's, else 3: forces within 0.7 of an rms of 700 kJ/mol/nm of those without a cutoff.
    platform : str, optional
        OpenMM platform, in mixed precision where there is such a choice; the fastest that works by default.
    workers : int
        Processes that prepare models, and threads where the platform is the CPU.
    per_context : int, optional
        Most runs in one Context; as many as fit within 50 nm of the origin by default. More are run batch by batch,
        those that are least far first.
    chunk : int, optional
        Frames between saves; every 20 seconds by default.
    protocol : Protocol, optional
        Settings of the MD.
    report : callable
        Called with one line for each thing worth knowing.
    observe : callable, optional
        See :data:`~openmm_starmd.classical.replicas.Observer`.

    Returns
    -------
    dict of str to str
        What failed, by name or ``NAME R1``, and why. A run that explodes is taken out: its frames up to the last good
        one are kept, and the others go on from theirs.

    Raises
    ------
    ValueError
        If a file is missing, two share a name, a setting is out of range, or the platform cannot be used.
    """
    paths = named_inputs(inputs)
    if replicas < 1 or workers < 1 or duration < 0 or (seconds is not None and seconds <= 0):
        raise ValueError("replicas, workers and seconds must be positive, and duration not negative")
    if per_context is not None and per_context < 1:
        raise ValueError("per_context must be positive")
    protocol = protocol or Protocol()
    protocol = replace(
        protocol,
        interval=protocol.interval if interval is None else interval,
        fine=protocol.fine if fine is None else fine,
        cutoff=cutoff if cutoff is not None else protocol.cutoff or CUTOFF,
    )
    protocol.check()
    with held(paths, output, report) as (mine, failed):
        lacking = {
            name: path for name, path in mine.items() if not RunFiles(Path(output) / name, name, 1).model.exists()
        }
        if lacking:
            failed.update(prepare_models(lacking, output, protocol, workers, report))
        crowd = _Crowd(protocol, platform, workers, report, observe)
        for name, path in mine.items():
            if name in failed:
                continue
            try:
                crowd.admit(prepare(path, output, protocol, notes={"together": True}), range(1, replicas + 1))
            except ValueError as error:
                failed[name] = reason(error)
                report(f"{name}: failed: {failed[name]}")
        total = round(duration / protocol.interval)
        if total and crowd.members:
            failed.update(crowd.run(total, seconds, per_context, chunk))
    return failed


class _Crowd:
    """All runs of one call, and how they are brought forward.

    Parameters
    ----------
    protocol : Protocol
        With a cutoff.
    platform, threads
        As :func:`make_data_together` takes them.
    report, observe : callable
    """

    def __init__(
        self,
        protocol: Protocol,
        platform: str | None,
        threads: int,
        report: Callable[[str], object],
        observe: Observer | None,
    ) -> None:
        self.members: list[Member] = []
        self.failed: dict[str, str] = {}
        self._protocol, self._platform, self._threads = protocol, platform, threads
        self._report, self._observe = report, observe
        self._current: Company | None = None
        self._picoseconds, self._attempts, self._nobody = 0.0, 0, 0
        self._torn = False

    def admit(self, model: PreparedModel, replicas: Iterable[int]) -> None:
        """Take replicas of a protein in, where their files say that they are; a ValueError if those do not fit."""
        terms = MoleculeTerms(make_system(model.topology, self._protocol))
        admitted = []
        for replica in replicas:
            recorder = model.recorder(replica, self._protocol)
            state = recorder.resume(len(model.positions))
            positions = model.positions if state is None else state.positions
            velocities = None if state is None else state.velocities
            label = f"{model.files.name} R{replica}"
            admitted.append(Member(label, recorder, terms, positions - positions.mean(0), velocities))
        self.members += admitted

    def run(self, total: int, seconds: float | None, per_context: int | None, chunk: int | None) -> dict[str, str]:
        """Bring every member to `total` frames, or on for so many seconds; gives what failed."""
        began = time.monotonic()
        waiting = sorted((m for m in self.members if m.recorder.frames < total), key=lambda m: m.recorder.frames)
        if waiting:
            self._platform = _usable(self._platform, waiting[0], self._protocol, self._threads)
            room = capacity([m.radius for m in waiting], self._protocol)
            most = max(1, min(per_context or len(waiting), room))
            batches = [waiting[i : i + most] for i in range(0, len(waiting), most)]
            if len(batches) > 1:
                self._report(f"{len(waiting)} runs in {len(batches)} batches of at most {most}, one after another")
            for done, batch in enumerate(batches):
                deadline = None
                if seconds is not None:
                    now = time.monotonic()
                    deadline = now + (began + seconds - now) / (len(batches) - done)
                self._bring_forward(batch, total, deadline, chunk)
        target = total * self._protocol.interval
        for member in self.members:
            if member.label not in self.failed:
                reached = member.recorder.time
                self._report(f"{member.label}: {reached:g} ps done" + (f" of {target:g}" if reached < target else ""))
        wall, made = time.monotonic() - began, self._picoseconds / 1000
        if made:
            self._report(f"{made:.3g} ns in {wall:.0f} s on {self._platform}: {made / wall * 86400:.0f} ns/day in all")
        return self.failed

    def _bring_forward(self, batch: Sequence[Member], total: int, deadline: float | None, chunk: int | None) -> None:
        """Bring a batch to `total` frames or to the deadline, and save it, whatever happens."""
        try:
            while True:
                active = [m for m in batch if m.label not in self.failed and m.recorder.frames < total]
                if not active:
                    break
                try:
                    new = [m for m in active if m.velocities is None]
                    if new and not self._equilibrate(new, deadline):
                        break
                    if not self._produce(active, total, deadline, chunk):
                        break
                except Trouble as trouble:
                    self._take_out(trouble, active)
        finally:
            self._current = None
            # states behind their frames would be gone on from as if they were not: better what was saved before
            if not self._torn:
                for member in batch:
                    member.save()

    def _equilibrate(self, new: list[Member], deadline: float | None) -> bool:
        """Give those that begin velocities and time to settle; False if the deadline came first."""
        protocol, company = self._protocol, self._company(new)
        company.warm()
        left = round(protocol.equilibration / protocol.timestep)
        while left > 0:
            if deadline is not None and time.monotonic() > deadline:
                self._report(f"the seconds were over before {new[0].label} and {len(new) - 1} more were equilibrated")
                return False
            steps = min(left, max(1, round(1 / protocol.timestep)))
            company.advance(steps)
            left -= steps
        company.keep()
        for member in new:
            # a trajectory is then never without a state, so that one that is may be refused
            member.save()
        return True

    def _produce(self, active: list[Member], total: int, deadline: float | None, chunk: int | None) -> bool:
        """Draw frames until the first member has them all; False if the deadline came before."""
        protocol, company = self._protocol, self._company(active)
        saved, since, spent = time.monotonic(), 0, 0.0
        for _ in range(total - max(m.recorder.frames for m in active)):
            began = time.monotonic()
            if deadline is not None and began + spent > deadline:
                return False
            parts = max(protocol.parts(m.recorder.frames) for m in active)
            for part in range(1, parts + 1):
                company.advance(protocol.steps_per_frame // parts)
                self._torn = part == parts
                for member, positions in zip(active, company.positions, strict=True):
                    member.recorder.take(positions, part == parts)
            company.keep()
            self._torn = False
            self._picoseconds += protocol.interval * len(active)
            self._nobody = 0
            if self._observe is not None:
                for m, velocities in zip(active, company.velocities, strict=True):
                    self._observe(m.label, m.recorder.time, m.positions, velocities)
            since += 1
            if since == chunk or (chunk is None and time.monotonic() - saved > _SAVE):
                for member in active:
                    member.save()
                saved, since = time.monotonic(), 0
            spent = time.monotonic() - began
        return True

    def _company(self, members: list[Member]) -> Company:
        """The members in one Context: the one there is, if they are its members."""
        if self._current is None or self._current.members != members:
            # other noise after the equilibration than in it, also where a kill parts the two
            stages = [(m.label, "new" if m.velocities is None else m.recorder.frames) for m in members]
            key = repr(stages) + str(self._attempts)
            seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little") % (2**31 - 1) + 1
            self._current = None
            atoms = sum(m.terms.size for m in members)
            try:
                self._current = Company(members, self._protocol, self._platform, self._threads, seed)
            except mm.OpenMMException as error:
                raise ValueError(
                    f"{len(members)} runs of {atoms} atoms do not go into one Context on {self._platform} ({error}): "
                    "give per_context"
                ) from error
            self._report(
                f"{len(members)} runs of {atoms} atoms in one Context on {self._platform}, "
                f"{self._current.spacing:.1f} nm apart"
            )
        return self._current

    def _take_out(self, trouble: Trouble, active: Sequence[Member]) -> None:
        """Leave those to blame as of their last good frame; the others will go on from theirs, with other noise."""
        self._current = None
        self._attempts += 1
        self._nobody = 0 if trouble.blamed else self._nobody + 1
        if self._nobody >= _TRIES:
            raise ValueError(f"OpenMM fails on {self._platform}, and no protein is to blame: {trouble}") from trouble
        for member in active:
            member.recorder.forget_partial()
            if member in trouble.blamed:
                why = f"{trouble.blamed[member]}; its frames up to {member.recorder.time:g} ps are kept"
                self.failed[member.label] = why
                self._report(f"{member.label}: failed: {why}")


def _usable(platform: str | None, member: Member, protocol: Protocol, threads: int) -> str:
    """The platform named, or the fastest one, that a Context can be made on; a ValueError if there is none."""
    known = [mm.Platform.getPlatform(i) for i in range(mm.Platform.getNumPlatforms())]
    names = [one.getName() for one in sorted(known, key=lambda one: -one.getSpeed())]
    errors = []
    for name in names if platform is None else [platform]:
        try:
            make_context(member.terms.system, make_integrator(protocol, 1), name, threads)
        except mm.OpenMMException as error:
            errors.append(f"platform {name} cannot be used: {error}")
        else:
            return name
    raise ValueError("; ".join(errors))
