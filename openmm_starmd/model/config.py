"""Hyper-parameters of a network and the limits of its weights, as they stand in ``config.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from openmm_starmd.diffusion.samplers import SAMPLERS, SamplerSettings
from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.model.elastic_settings import ElasticSettings


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild a network and to use its weights rightly.

    Attributes
    ----------
    anchored : bool
        True for the `mini` form: the clean-frame estimate starts from the Gaussian posterior blend of the last history
        frame and the noisy frame, and updates are scaled by the width of that posterior. False for the paper's form,
        where the estimate starts from the noisy frame.
    c_s, c_z : int
        Widths of single and pair features.
    blocks : int
        Number of blocks.
    conditioner : str
        Where a protein's time-independent features come from: ``"reference"``, the geometry of a structure, or
        ``"openfold"``, OpenFold's features that the user hands over.
    conditioner_layers : int
        Pair-biased attention layers of the conditioner; none for OpenFold's features.
    reference_torsions : bool
        Whether the conditioner sees ψ and χ1..4 of the reference structure.
    conditioner_s, conditioner_z : int
        Widths of the conditioner's output (384 and 128 in the paper's form, as OpenFold's features have).
    ipa_heads, ipa_hidden, ipa_query_points, ipa_value_points : int
        Sizes of invariant point attention.
    attention : str
        ``"joint"`` over residues and frames at once, or ``"separable"``: over frames, then over residues.
    attention_layers, attention_heads, attention_hidden : int
        Space-time attention per block.
    mlp_ratio : int
        Hidden width of the MLPs over their input width.
    schedule : Schedule
        Noise schedules of translations and rotations.
    sampler : str
        ``"multistep"``, ``"posterior"`` or ``"euler-maruyama"``.
    steps : int
        Denoising steps per frame by default.
    tau_end : float
        Diffusion time of the last denoising step.
    context_tau : float
        Upper end of the contextual noise's diffusion time at inference.
    noise_scale : float
        Factor on the noise added by each denoising step; see :class:`openmm_starmd.diffusion.samplers.SamplerSettings`.
    max_context : int
        Frames the history may hold; one less than the windows trained on, whose last frame is the one drawn.
    displacement, displacement_exponent, displacement_max : float
        Spread per coordinate of a residue's translation over a stride, ``displacement * (stride / 1 ps) **
        displacement_exponent``, at most `displacement_max`; nm. Used by the anchored form only.
    turn, turn_max : float
        The same for rotation vectors, rad, with the same exponent.
    stride_min, stride_max, stride_default : float
        Allowed and default stride, ps.
    temperature : float
        Temperature of the training data, K.
    max_length : int
        Residues of the longest training protein.
    torsions_trained : bool
        Whether the side-chain torsions are good enough for ``atoms="heavy"`` to be the default.
    name : str
        Name of the weights.
    prior : str
        Of the anchored form, what a frame is expected to be before its noise is seen: ``"isotropic"``, the last frame
        and a spread by `displacement`; or ``"elastic"``, modes of an elastic network of the reference structure
        (:mod:`openmm_starmd.model.elastic`).
    elastic : ElasticSettings
        Numbers of the elastic prior.
    attention_temperature : bool
        Whether the logits of joint attention have a learned scale a head and grow with ln(tokens seen), so that
        attention is as sharp for many tokens as for few.
    centred_noise : bool
        Whether the noise of translations has no mean over a frame's residues. Frames are centred, so that noise of
        their centre tells nothing, and a network that sees invariants alone could not take it off.
    lasting_reference : bool
        Whether the reference structure stays that of the simulation's start when classical MD hands over; else it is
        the hand-over's. Positions that a user sets are a new reference either way.
    correction : tuple of (float, float)
        τ, rising, and the share of the network's correction to its initial estimate that is kept there; interpolated in
        ln τ. Chosen on proteins left out of training, where a network knows less than it believes. Empty for all of it.
        Training itself goes without.
    excluded_volume : bool
        Whether the estimate of a frame is kept from overlaps of Cα and from breaks of the chain at low noise, where it
        is one structure (:mod:`openmm_starmd.model.excluded_volume`). Only rollouts have it.
    """

    anchored: bool = True
    c_s: int = 128
    c_z: int = 32
    blocks: int = 3
    conditioner_layers: int = 2
    reference_torsions: bool = False
    conditioner_s: int = 128
    conditioner_z: int = 32
    ipa_heads: int = 4
    ipa_hidden: int = 16
    ipa_query_points: int = 4
    ipa_value_points: int = 8
    attention_layers: int = 1
    attention_heads: int = 4
    attention_hidden: int = 128
    mlp_ratio: int = 2
    schedule: Schedule = field(default_factory=lambda: Schedule(sigma_min=0.02))
    sampler: str = "multistep"
    steps: int = 20
    tau_end: float = 0.0005
    context_tau: float = 0.005
    noise_scale: float = 1.0
    max_context: int = 7
    displacement: float = 0.043
    displacement_exponent: float = 0.22
    displacement_max: float = 0.2
    turn: float = 0.16
    turn_max: float = 0.6
    stride_min: float = 1.0
    stride_max: float = 20.0
    stride_default: float = 10.0
    temperature: float = 300.0
    max_length: int = 0
    torsions_trained: bool = False
    name: str = ""
    attention: str = "joint"
    conditioner: str = "reference"
    prior: str = "isotropic"
    elastic: ElasticSettings = field(default_factory=ElasticSettings)
    attention_temperature: bool = False
    centred_noise: bool = False
    lasting_reference: bool = False
    correction: tuple[tuple[float, float], ...] = ()
    excluded_volume: bool = False

    def __repr__(self) -> str:
        """As older versions wrote it, and what they did not know where it is not as it was: it enters digests."""
        shown = []
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            # the numbers of a prior are shown where there is one: their defaults change when they are fitted anew
            told = self.prior == "elastic" if name == "elastic" else value != getattr(_FORMER, name)
            if told or name not in LATER:
                shown.append(f"{name}={value!r}")
        return f"ModelConfig({', '.join(shown)})"

    def __post_init__(self) -> None:
        object.__setattr__(self, "correction", tuple((float(tau), float(share)) for tau, share in self.correction))
        if self.prior not in ("isotropic", "elastic"):
            raise ValueError(f"prior is {self.prior!r}; choose 'isotropic' or 'elastic'")
        if self.prior == "elastic" and not self.anchored:
            raise ValueError("prior is 'elastic', which starts from the last frame: set anchored to true")
        if self.attention_temperature and self.attention != "joint":
            raise ValueError("attention_temperature is for joint attention: set it to false with attention 'separable'")
        taus = [tau for tau, _ in self.correction]
        shares = [share for _, share in self.correction]
        if not all(tau > 0 for tau in taus) or taus != sorted(set(taus)) or not all(0 <= s <= 1 for s in shares):
            raise ValueError(f"correction is {self.correction}; give pairs of a rising τ above 0 and a share in [0, 1]")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; choose one of {', '.join(map(repr, sorted(SAMPLERS)))}")
        if self.attention not in ("joint", "separable"):
            raise ValueError(f"attention is {self.attention!r}; choose 'joint' or 'separable'")
        if self.attention == "separable" and self.attention_heads % 2:
            raise ValueError(
                f"attention_heads is {self.attention_heads}; separable attention halves the heads between frames and "
                "residues and needs an even number"
            )
        if self.conditioner not in ("reference", "openfold"):
            raise ValueError(f"conditioner is {self.conditioner!r}; choose 'reference' or 'openfold'")
        if self.attention_hidden % (4 * self.attention_heads):
            raise ValueError(
                f"attention_hidden {self.attention_hidden} must be a multiple of 4 x attention_heads "
                f"{self.attention_heads}: 2D-RoPE rotates pairs in each half of a head"
            )
        if self.max_context < 3:
            raise ValueError(
                f"max_context is {self.max_context}; it must be at least 3: the first frame and the last two"
            )
        if not 0 < self.stride_min <= self.stride_default <= self.stride_max:
            raise ValueError(
                f"stride_default is {self.stride_default:g} ps, and stride_min {self.stride_min:g} to stride_max "
                f"{self.stride_max:g} ps: it must lie between them, and all be positive. Of weights to be trained, "
                "model.stride_default must fit windows.stride_min and windows.stride_max"
            )

    @property
    def sampling(self) -> SamplerSettings:
        """How frames are drawn by default."""
        return SamplerSettings(
            self.sampler, self.steps, self.tau_end, self.context_tau, self.max_context, self.noise_scale
        )

    def check_stride(self, stride: float, name: str) -> None:
        """Raise a ValueError if weights called `name` were not trained on `stride`, ps."""
        if not self.stride_min <= stride <= self.stride_max:
            raise ValueError(
                f"stride {stride:g} ps lies outside the {self.stride_min:g} to {self.stride_max:g} ps that {name} was "
                "trained on"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Inverse of :meth:`to_dict`; unknown keys raise a ValueError."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown configuration keys {sorted(unknown)}: written by a newer openmm_starmd?")
        values = dict(values)
        values["schedule"] = Schedule(**values["schedule"])
        if values.get("prior", "isotropic") != "elastic":
            values.pop("elastic", None)  # numbers that nothing is made of
        if "elastic" in values:
            strange = set(values["elastic"]) - {f.name for f in fields(ElasticSettings)}
            if strange:
                raise ValueError(f"unknown keys of elastic {sorted(strange)}: written by a newer openmm_starmd?")
            values["elastic"] = ElasticSettings(**values["elastic"])
        return cls(**values)


LATER = (
    "prior",
    "elastic",
    "attention_temperature",
    "centred_noise",
    "lasting_reference",
    "correction",
    "excluded_volume",
)
"""Settings that weights of 0.1 know nothing of, and that no digest of theirs holds."""
_FORMER = ModelConfig()


def preset(name: str) -> ModelConfig:
    """Configuration of a named preset.

    Parameters
    ----------
    name : str
        ``"mini"`` (anchored with an elastic prior, low-noise, trains on a CPU in hours) or ``"paper"`` (the dimensions
        and the form of arXiv 2602.02128, tables 7 to 10).

    Returns
    -------
    ModelConfig
    """
    if name == "mini":
        return ModelConfig(
            reference_torsions=True, prior="elastic", lasting_reference=True, excluded_volume=True, name="mini"
        )
    if name == "paper":
        return ModelConfig(
            anchored=False,
            c_s=256,
            c_z=128,
            blocks=4,
            conditioner_layers=4,
            conditioner_s=384,
            conditioner_z=128,
            ipa_heads=4,
            ipa_hidden=256,
            ipa_query_points=8,
            ipa_value_points=12,
            attention_layers=2,
            attention_heads=8,
            attention_hidden=256,
            mlp_ratio=4,
            schedule=Schedule(),
            sampler="euler-maruyama",
            steps=200,
            tau_end=0.01,
            context_tau=0.1,
            max_context=32,
            stride_min=10.0,
            stride_max=10240.0,
            stride_default=1200.0,
            centred_noise=True,
            name="paper",
        )
    raise ValueError(f"no preset {name!r}; choose 'mini' or 'paper'")
