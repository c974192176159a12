"""Other methods for balance between modalities, from their papers, each one file behind one small interface."""

from .base import Cost, Heads, Rival, Run
from .registry import create_rival, register, rival_class, rival_names

__all__ = ["Cost", "Heads", "Rival", "Run", "create_rival", "register", "rival_class", "rival_names"]
