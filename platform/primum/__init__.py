"""Primum: privacy-governed machine learning for hospitals.

Only the version lives here. The parts are imported by their own names (``primum.domain``,
``primum.application``, ...), so that importing one of them never pays for another.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
