"""Search N:M sparsity for image restoration networks and deploy it to TensorRT."""

from sls_deploy._version import __version__

__all__ = ["__version__"]
