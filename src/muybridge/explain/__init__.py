"""Look inside: where a recogniser looks in a video, and how much each frame matters (docs/explain.md)."""

from muybridge.explain.explaining import HOW, explain
from muybridge.explain.explanation import Explanation, Frame, check_free
from muybridge.explain.importance import passes

__all__ = ["HOW", "Explanation", "Frame", "check_free", "explain", "passes"]
