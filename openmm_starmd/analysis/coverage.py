"""Which part of the reference's conformations a run reaches, in the reference's principal components.

Principal components are fitted on the reference (Cα superposed on the reference's first frame). Both runs are counted
in the same histogram: bins of equal width over the range of the reference, and one bin beyond either end of each
dimension for what leaves that range, so that a run that leaves it is charged for it. Only valid frames count.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from openmm_starmd.analysis.matching import require_matched
from openmm_starmd.geometry.superposition import superpose

Array = NDArray[np.float64]

BINS = 10
DIMENSIONS = 2


@dataclass(frozen=True)
class Projection:
    """Principal components of a reference.

    Attributes
    ----------
    target : ndarray [N, 3]
        Frame on which frames are superposed, nm.
    mean : ndarray [3N]
        nm.
    components : ndarray [k, 3N]
        Orthonormal rows, the largest variance first.
    variances : ndarray [k]
        nm^2.
    explained : ndarray [k]
        Share of the total variance.
    """

    target: Array
    mean: Array
    components: Array
    variances: Array
    explained: Array

    def transform(self, frames: NDArray[np.floating]) -> Array:
        """Coordinates [frames, k] in nm of frames [frames, N, 3] in nm."""
        result = np.empty((len(frames), len(self.components)))
        for begin in range(0, len(frames), 1000):
            part = superpose(frames[begin : begin + 1000], self.target)
            result[begin : begin + 1000] = (part.reshape(len(part), -1) - self.mean) @ self.components.T
        return result


def fit_projection(frames: NDArray[np.floating], dimensions: int = DIMENSIONS) -> Projection:
    """Principal component analysis of frames superposed on the first of them.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        Cα, nm.
    dimensions : int
        Components at most; fewer if there is no more variance than that.

    Returns
    -------
    Projection

    Raises
    ------
    ValueError
        If the frames do not differ.
    """
    target = np.asarray(frames[0], dtype=np.float64)
    flat = superpose(frames, target).reshape(len(frames), -1)
    mean = flat.mean(0)
    flat -= mean
    count, size = flat.shape
    small = min(count, size)
    wanted = (max(0, small - dimensions), small - 1)
    # the smaller of the two Gram matrices holds all of the variance
    if size <= count:
        values, vectors = scipy.linalg.eigh(flat.T @ flat / count, subset_by_index=wanted)
        components = vectors.T
    else:
        values, vectors = scipy.linalg.eigh(flat @ flat.T / count, subset_by_index=wanted)
        components = vectors.T @ flat
    total = float((flat**2).sum() / count)
    values, components = values[::-1], components[::-1]
    keep = values > 1e-10 * max(total, 1e-300)
    if total < 1e-12 or not keep.any():
        raise ValueError("the frames of the reference do not differ from each other: principal components need motion")
    components = components[keep] / np.linalg.norm(components[keep], axis=1, keepdims=True)
    return Projection(target, mean, components, values[keep], values[keep] / total)


@dataclass(frozen=True)
class Coverage:
    """How two runs share a histogram.

    Attributes
    ----------
    jsd : float
        Jensen-Shannon distance: the square root of the divergence (unless ``root`` is false), logarithm to ``base``.
    recall : float
        Share of the bins occupied by the reference that the run reaches.
    precision : float
        Share of the bins occupied by the run that the reference reaches.
    f1 : float
        Harmonic mean of both.
    bins, dimensions : int
        Bins per dimension within the reference's range, and dimensions of the joint histogram.
    root : bool
    base : float
    valid : (float, float)
        Share of the frames of reference and run that are valid and were counted.
    frames : (int, int)
        Frames counted.
    explained : float
        Share of the reference's variance in these dimensions.
    """

    jsd: float
    recall: float
    precision: float
    f1: float
    bins: int
    dimensions: int
    root: bool
    base: float
    valid: tuple[float, float]
    frames: tuple[int, int]
    explained: float

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def jensen_shannon(p: NDArray[Any], q: NDArray[Any], base: float = 2.0, root: bool = True) -> float:
    """Jensen-Shannon divergence of two histograms, or its square root, which is a metric.

    Parameters
    ----------
    p, q : ndarray [bins]
        Counts or weights, each with a positive sum.
    base : float
        Of the logarithm; to base 2 both lie within 0 (equal) and 1 (disjoint).
    root : bool
        The distance (square root) rather than the divergence.

    Returns
    -------
    float
    """
    p, q = np.asarray(p, dtype=np.float64).ravel(), np.asarray(q, dtype=np.float64).ravel()
    if p.sum() <= 0 or q.sum() <= 0:
        return float("nan")
    distance = float(jensenshannon(p, q, base))
    return distance if root else distance**2


def histogram(points: Array, edges: list[Array]) -> NDArray[np.int64]:
    """Count points in the bins between edges and in one more beyond either end.

    Parameters
    ----------
    points : ndarray [frames, dimensions]
    edges : list of ndarray [bins + 1]
        One per dimension, growing.

    Returns
    -------
    ndarray [bins + 2, ...], int
        One axis per dimension.
    """
    shape = tuple(len(e) + 1 for e in edges)
    places = [np.searchsorted(e, points[:, k], "right") for k, e in enumerate(edges)]
    counts = np.bincount(np.ravel_multi_index(places, shape), minlength=int(np.prod(shape)))
    return counts.reshape(shape)


def coverage(
    reference: NDArray[np.floating],
    generated: NDArray[np.floating],
    *,
    valid: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
    bins: int = BINS,
    dimensions: int = DIMENSIONS,
    base: float = 2.0,
    root: bool = True,
    projection: Projection | None = None,
) -> Coverage:
    """How well a run covers a reference.

    Parameters
    ----------
    reference, generated : ndarray [frames, N, 3]
        Cα in nm, equal in number of frames (and, for a fair comparison, in stride).
    valid : (ndarray [frames] bool, ndarray [frames] bool), optional
        Frames that count, all by default.
    bins : int
        Per dimension, over the range of the reference's valid frames.
    dimensions : int
        Principal components of the joint histogram.
    base, root
        As in :func:`jensen_shannon`.
    projection : Projection, optional
        Of the reference's valid frames, if it is there already.

    Returns
    -------
    Coverage
        All figures are nan where one of the two has no valid frame; recall is 0 if only the run has none.
    """
    require_matched(reference, generated)
    if bins < 1 or dimensions < 1:
        raise ValueError(f"{bins} bins in {dimensions} dimensions; both must be at least 1")
    masks = valid or (np.ones(len(reference), dtype=bool), np.ones(len(generated), dtype=bool))
    shares = (float(np.mean(masks[0])), float(np.mean(masks[1])))
    counts = (int(np.sum(masks[0])), int(np.sum(masks[1])))
    nan = float("nan")
    if min(counts) == 0 or counts[0] < 2:
        return Coverage(
            jsd=nan,
            recall=0.0 if counts[0] else nan,
            precision=nan,
            f1=nan,
            bins=bins,
            dimensions=dimensions,
            root=root,
            base=base,
            valid=shares,
            frames=counts,
            explained=nan,
        )
    projection = projection or fit_projection(reference[masks[0]], dimensions)
    used = min(dimensions, len(projection.components))
    points = [
        projection.transform(run[mask])[:, :used] for run, mask in zip((reference, generated), masks, strict=True)
    ]
    low, high = points[0].min(0), points[0].max(0)
    # the reference's own extremes must not fall beyond the ends by rounding
    margin = 1e-3 * (high - low)
    edges = [np.linspace(a, b, bins + 1) for a, b in zip(low - margin, high + margin, strict=True)]
    p, q = (histogram(x, edges) for x in points)
    shared = int(((p > 0) & (q > 0)).sum())
    recall, precision = shared / int((p > 0).sum()), shared / int((q > 0).sum())
    return Coverage(
        jsd=jensen_shannon(p, q, base, root),
        recall=recall,
        precision=precision,
        f1=2 * recall * precision / (recall + precision) if shared else 0.0,
        bins=bins,
        dimensions=used,
        root=root,
        base=base,
        valid=shares,
        frames=counts,
        explained=float(projection.explained[:used].sum()),
    )
