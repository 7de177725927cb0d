"""MD frames of benchmarks/data as verdicts take them."""

from __future__ import annotations

import warnings

import mdtraj
import numpy as np
from openmm.app import PDBFile

from benchmarks.lib.paths import DATA
from openmm_starmd.classical.model import ClassicalModel
from openmm_starmd.classical.settings import ClassicalSettings
from openmm_starmd.protein.protein import Protein
from openmm_starmd.verdicts.limits import Spread


class Reference:
    """The all-atom model of a protein with reference MD, and its frames.

    Parameters
    ----------
    name : str
        A folder of benchmarks/data or benchmarks/data/training.
    replica : int
    threads : int
        Of OpenMM's CPU platform.

    Attributes
    ----------
    pdb : openmm.app.PDBFile
        The start structure.
    model : ClassicalModel
    frames : ndarray [frames, heavy atoms, 3]
        nm, in the order of ``protein.frame_topology("heavy")``.
    spread : Spread
        Of this MD.
    """

    def __init__(self, name: str, replica: int = 1, threads: int = 1) -> None:
        folder = next((f for f in (DATA / name, DATA / "training" / name) if f.is_dir()), None)
        if folder is None:
            raise ValueError(f"there is no reference MD of {name} in {DATA}")
        self.pdb = PDBFile(str(folder / f"{name}.pdb"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            protein = Protein.from_openmm(self.pdb.topology, self.pdb.positions)
        settings = ClassicalSettings(platform="CPU", properties={"Threads": str(threads)})
        self.model = ClassicalModel(protein, settings)
        trajectory = mdtraj.load(
            str(folder / f"{name}_prod_R{replica}_fit.xtc"), top=str(folder / f"{name}.pdb"), standard_names=False
        )
        places = {(atom.residue.index, atom.name): atom.index for atom in trajectory.topology.atoms}
        order = [places[atom.residue.index, atom.name] for atom in protein.frame_topology("heavy").atoms()]
        self.frames = trajectory.xyz[:, order].astype(np.float64)
        backbones = np.array([protein.backbone_from_frame(frame, "heavy") for frame in self.frames])
        interval = float(trajectory.time[1] - trajectory.time[0])
        self.spread = Spread.from_frames(backbones, interval, f"MD of {name}")
