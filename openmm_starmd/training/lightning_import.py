"""Lightning, or an error that names the extra it comes with."""

try:
    import lightning
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise ImportError("training needs Lightning: pip install 'openmm_starmd[train]'") from error

__all__ = ["Callback", "lightning"]
