"""See :mod:`illava_lab.benchmarks.pretrained.command`."""

from illava_lab.benchmarks.pretrained.command import main

main()
