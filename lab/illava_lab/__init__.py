"""The laboratory of illava: drawn tasks, small trained models, and what its documentation measures."""

__version__ = "0.2.0"
