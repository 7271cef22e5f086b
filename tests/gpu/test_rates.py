"""Rates measured on a graphics card."""

from __future__ import annotations

import pytest
import torch

from illava.planning.accelerator import DATA_SHEETS
from illava.planning.accelerator_measuring import measure_accelerator
from illava.planning.kernels import KernelCounter, tiny_inputs
from tests.tiny import config, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card"),
]


def test_rates_stay_below_the_data_sheet():
    rates = measure_accelerator(config("qwen2_vl"), torch.bfloat16, "cuda")
    print(rates)
    assert rates.measured
    assert 1e-6 < rates.launch_seconds < 1e-3
    assert 1e-6 < rates.synchronisation_seconds < 1e-3
    assert rates.float32_flops_per_second < rates.flops_per_second
    # Whole words: an L40 is no L4.
    words = rates.name.lower().replace("-", " ").replace("rtx ", "rtx").split()
    for name, sheet in DATA_SHEETS.items():
        if name in words:
            assert rates.flops_per_second < 1.05 * sheet.half
            assert rates.float32_flops_per_second < 1.05 * sheet.float32
            assert rates.bytes_per_second < 1.05 * sheet.bandwidth


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "internvl"])
def test_a_card_launches_what_was_counted_on_the_cpu(family):
    """Within a fifth: the attention of a card and that of a CPU are different operators."""
    counts = []
    for device in ("cpu", "cuda"):
        model, counter = tiny_model(family).to(device, torch.bfloat16), KernelCounter()
        inputs = tiny_inputs(model, 1)
        with torch.no_grad(), counter:
            model(**inputs)
        counts.append(sum(counter.passes[0].values()))
    assert counts[1] == pytest.approx(counts[0], rel=0.2)
