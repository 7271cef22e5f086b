"""Load, soak and fuzz tests of ``illava serve``, and the page of what they measured."""
