"""What a model does on this machine: a run in a process of its own, the drive's bandwidth, the roofline of both."""

from __future__ import annotations
