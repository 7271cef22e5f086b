"""Drawings of kept and merged patches: overlays, sheets of all steps, animations, charts and an HTML page.

All functions take the images of a prompt and ``handle.report``. Merges and scores are drawn only for reports
of ``accelerate(model, ..., trace=True)``.
"""

from .animation import draw_frames, save_animation
from .charts import draw_charts
from .overlay import draw_overlay
from .page import html_page
from .sheet import draw_steps

__all__ = ["draw_charts", "draw_frames", "draw_overlay", "draw_steps", "html_page", "save_animation"]
