"""The evidence behind docs/evidence.md: what is measured, how layers are chosen, and the page itself."""
