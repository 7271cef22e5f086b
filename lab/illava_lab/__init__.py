"""The laboratory of illava: drawn tasks, small trained models, and the measurements behind the documentation."""

__version__ = "0.2.0"
