"""Who sees whom in the training pass, in the forms that attention kernels take."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FrameMask:
    """Which frame sees which; tokens of one frame are alike.

    Attributes
    ----------
    frames : Tensor [F, F], bool
        True where a frame (row) may see another (column).
    residues : int
        N, tokens per frame.
    """

    frames: Tensor
    residues: int

    @property
    def tokens(self) -> Tensor:
        """The same for tokens, frame by frame: [F N, F N], bool."""
        return _for_tokens(self)

    @functools.cached_property
    def blocks(self) -> Any:
        """The same for FlexAttention, which skips blocks of tokens that see nothing: a ``BlockMask``."""
        from torch.nn.attention.flex_attention import create_block_mask

        with torch.inference_mode(False):
            allowed = self.frames
            count = allowed.shape[0] * self.residues
            # tensors, not numbers: a captured number would have the kernel compiled anew for each protein
            frame = torch.arange(allowed.shape[0], device=allowed.device).repeat_interleave(self.residues)

            def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return allowed[frame[query], frame[key]]

            return create_block_mask(visible, None, None, count, count, device=allowed.device)


# few, since each is quadratic in tokens and quickly made again
@functools.lru_cache(maxsize=8)
def _for_tokens(mask: FrameMask) -> Tensor:
    # what is made under inference_mode could not be used in training later
    with torch.inference_mode(False):
        return mask.frames.repeat_interleave(mask.residues, 0).repeat_interleave(mask.residues, 1)


# one for each length of the training proteins, with FlexAttention's form of it, which is small and dear
@functools.lru_cache(maxsize=1024)
def block_causal_mask(frames: int, residues: int, device: torch.device | str = "cpu") -> FrameMask:
    """Who sees whom in the training pass: clean copies of frames 0..L-1, then noisy copies of frames 1..L-1.

    Clean frame l sees clean frames up to l; noisy frame l sees clean frames before l and itself.

    Parameters
    ----------
    frames : int
        L.
    residues : int
        N.
    device : torch.device or str

    Returns
    -------
    FrameMask
        Of 2L - 1 frames.
    """
    with torch.inference_mode(False):
        copy = torch.arange(2 * frames - 1, device=device)
        noisy = copy >= frames
        number = copy.where(~noisy, copy - (frames - 1))
        earlier = number[None, :] < number[:, None]
        same = copy[None, :] == copy[:, None]
        return FrameMask((~noisy[None, :] & earlier) | same, residues)
