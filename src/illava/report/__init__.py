"""Reports on the last prefill: token counts, costs, and the patches that were kept."""

from ..planning.counts import StepReport
from .report import PictureReport, Report
from .traces import StepTrace

__all__ = ["PictureReport", "Report", "StepReport", "StepTrace"]
