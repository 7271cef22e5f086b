"""Merging inside a pretrained DINOv2-small on real photographs.

    python -m illava_lab.benchmarks.pretrained measure --threads 1    # resumes where it was stopped
    python -m illava_lab.benchmarks.pretrained page                   # writes docs/pretrained.md

The encoder is that of ``python -m illava_lab.real get --only-parts``, fetched if it is not in the cache. The
photographs lie in $ILLAVA_DATA, by default ../shared/data beside the repository.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from illava.bench.machine import machine
from illava.evaluation.rows import fingerprint
from illava.evaluation.store import write_json
from illava.io.pictures import InputError
from illava_lab.benchmarks.pretrained import encoder, photographs, readings, rows
from illava_lab.benchmarks.pretrained.measure import Measurement
from illava_lab.benchmarks.pretrained.settings import AMOUNTS, LAYERS, SEED

RUNS, FIGURES = Path("runs/pretrained"), Path("docs/pretrained")


def result_file(side: int) -> Path:
    """The result file of one size of pictures."""
    return FIGURES / f"{side}.json"


def measure(weights: Path | None, sides: Sequence[int]) -> None:
    """Encode, time and read at each size, and write the result files.

    ``weights``: folder of a DINOv2; None: the one in the cache, fetched and converted if it is not there.
    """
    data = photographs.folder()
    model = encoder.load(encoder.fetched() if weights is None else weights)
    runner = encoder.Runner(model)
    for side in sides:
        amounts = AMOUNTS[side]
        measurement = Measurement(
            runner,
            data,
            RUNS / str(side),
            side,
            amounts,
            rows.standard(),
            rows.deep(amounts.blocks, runner.depth),
        )
        settings = {
            "weights": fingerprint(model.model.vision_tower),
            "side": side,
            "seed": SEED,
            "amounts": amounts.to_dict(),
        }
        measurement.claim(settings)
        measurement.encode()
        measurement.time()
        FIGURES.mkdir(parents=True, exist_ok=True)
        found = results(measurement, settings)
        if side == min(AMOUNTS):
            measurement.encode_layers("clothing", LAYERS)
            found["layers"] = readings.read_layers(measurement, "clothing", LAYERS)
        write_json(result_file(side), found)
        print(f"written to {result_file(side)}", flush=True)


def results(measurement: Measurement, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page is written from: answers and seconds, no figures made of them."""
    every = [*measurement.standard, *measurement.deep]
    seconds = measurement.seconds()
    return {
        "settings": settings,
        "machine": machine(),
        **readings.read(measurement),
        "rows": {
            row.label: {
                "name": row.name,
                "group": row.group,
                "keep": row.keep,
                "block": row.block,
                "counts": row.counts,
                "seconds": [turn[row.label] for turn in seconds],
            }
            for row in every
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("measure", "page"))
    parser.add_argument("--encoder", type=Path, help="folder of a DINOv2; without it, fetch")
    parser.add_argument("--side", type=int, nargs="*", choices=[*AMOUNTS], default=[*AMOUNTS])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        if options.what == "measure":
            measure(options.encoder, options.side)
        else:
            from illava_lab.benchmarks.pretrained import page

            page.write()
    except InputError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
