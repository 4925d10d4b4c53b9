"""The encoders of the house, by the kind of item that they read. They have one surface, so that no verb asks which it is."""

from __future__ import annotations

from counterpoint.encoders.mlp import MLP
from counterpoint.encoders.text import TextEncoder

Encoder = TextEncoder | MLP
