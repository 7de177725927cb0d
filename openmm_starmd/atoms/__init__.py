"""Full atoms of frames: side chains, hydrogens, files of them."""
