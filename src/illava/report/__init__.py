"""Reports on the last prefill: token counts, costs, and the patches that were kept."""

from .report import PictureReport, Report, StepReport
from .traces import StepTrace

__all__ = ["PictureReport", "Report", "StepReport", "StepTrace"]
