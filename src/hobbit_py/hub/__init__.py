"""Models on the Hugging Face hub: naming, choosing, fetching, listing and removing them. Needs the extra [hub]."""

from __future__ import annotations

from .reference import Reference

__all__ = ["Reference"]
