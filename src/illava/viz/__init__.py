"""Pictures of what stayed: overlays, sheets of all steps, animations, charts, and a page without network.

Everything takes the pictures of a prompt and ``handle.report``, and shows most with
``accelerate(model, ..., trace=True)``.
"""

from .animation import draw_frames, save_animation
from .charts import draw_charts
from .overlay import draw_overlay
from .page import html_page
from .sheet import draw_steps

__all__ = ["draw_charts", "draw_frames", "draw_overlay", "draw_steps", "html_page", "save_animation"]
