"""Everything that a graphics card is needed for, in order of worth.

    make bench-gpu OUT=out/gpu
    make bench-gpu-rehearsal

On a machine without a virtual environment, from the root of the repository, with torch, torchvision,
transformers, typer, rich, Pillow, pytest and matplotlib (without it there is no plot):

    PYTHONPATH=src:lab HF_HUB_OFFLINE=1 python3 -m illava_lab.benchmarks.gpu --output out/gpu --minutes 8

A call of 8 minutes measures the most important rows of every part. If rows are left, its exit code is 3
(``make`` prints "Error 3"), and a second call measures them: by the predictions all rows take 15 minutes.
Other exit codes are 0, all rows are there; 1, something failed or hung; 2, no card, a missing package or a
wrong argument.

Every row is written when it is done, into ``<part>.json`` of the folder. A further call goes on with what is
missing: rows that failed with an error and rows that were left out for time. Rows stay only as long as the
library, the card, torch, transformers and the settings are the same; the suite's also need the same tests.
Table and plot are made from these files after each part, and without a card by
``python -m illava_lab.benchmarks.gpu.report out/gpu``; ``python -m illava_lab.benchmarks.gpu.page out/gpu``
copies the figures into docs/performance.md.
"""
