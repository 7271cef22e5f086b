"""The Triton kernels, in Triton's interpreter or on a graphics card."""
