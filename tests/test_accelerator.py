"""Times on an accelerator: closed forms of the roofline."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite

import pytest
import torch

import illava
from illava.models.dimensions import EncoderDimensions, LlmDimensions, RecurrentDimensions
from illava.models.layout import workload
from illava.models.located import locate
from illava.ops.selection import MAX_PAIRWISE_UNITS
from illava.planning import merging_cost
from illava.planning.accelerator import (
    BANDWIDTH_EFFICIENCY,
    DATA_SHEETS,
    MATRIX_EFFICIENCY,
    AcceleratorRates,
    data_sheet_rates,
)
from illava.planning.accelerator_measuring import PARTS, measure_accelerator
from illava.planning.counts import EncoderCounts, PrefillCounts, StepReport, TokenCounts
from illava.planning.experts import Experts
from illava.planning.kernels import KernelCounts, count_kernels
from illava.planning.merging_cost import (
    KERNELS_BESIDE_ROUNDS,
    KERNELS_PER_ENCODER_STEP,
    KERNELS_PER_LLM_STEP,
    KERNELS_PER_PREFILL,
    StepShape,
    step_seconds,
    step_shape,
)
from illava.planning.predict import predict_on
from illava.planning.roofline import (
    ENCODER_MLP_PASSES,
    ENCODER_PASSES,
    LLM_MLP_PASSES,
    LLM_PASSES,
    Roofline,
)
from tests.tiny import config, tiny_model

SLOW = AcceleratorRates("made up", "bfloat16", 1e-5, 2e-5, 1e9, 1e10, 1e9, False)
ENCODER = EncoderDimensions(1, 8, 32, 2, 12, ((32, 16), (16, 16)))
LLM = LlmDimensions(1, 16, 40, 4, 2, 4, 100)
KERNELS = KernelCounts(20, 30, 2, 7, 90, 11, 40, 0, 50, 35)
COUNTS = TokenCounts((EncoderCounts(24, ((16, 8),), (20,), 5),), PrefillCounts(2, (11,), (11,), (True,)))


def roofline(**changed):
    return Roofline(replace(SLOW, **changed), ENCODER, LLM, KERNELS, group=4)


def operators(counts):
    """(FLOPs, elements) of every operator of one block, one layer, projector and head, written out."""

    def linear(rows, a, b):
        return 2 * rows * a * b, a * b + rows * a + rows * b

    (call,), (tokens,), rows = counts.encoder, counts.prefill.tokens, counts.prefill.rows
    ((one, two),), (left,) = call.sequences, call.mlp_tokens
    encoder = [linear(call.embedded, 12, 8), linear(call.projected, 32, 16), linear(call.projected, 16, 16)]
    encoder += [linear(one + two, 8, 24), linear(one + two, 8, 8)]
    encoder += [(4 * 8 * (one**2 + two**2), 4 * (one + two) * 8)]
    encoder += [linear(left, 8, 32), linear(left, 32, 8)]
    encoder += [(0, ENCODER_PASSES * (one + two) * 8 + ENCODER_MLP_PASSES * left * 32)]
    n = rows * tokens
    llm = [linear(n, 16, 16), linear(n, 16, 8), linear(n, 16, 8), linear(n, 16, 16)]
    llm += [(4 * rows * tokens * tokens * 16, 2 * n * 16 + 2 * n * 8)]
    llm += [linear(n, 16, 40), linear(n, 16, 40), linear(n, 40, 16)]
    llm += [(0, n * (LLM_PASSES * 16 + LLM_MLP_PASSES * 40)), linear(rows, 16, 100)]
    return encoder, llm


@pytest.mark.parametrize(("bandwidth", "matrices"), [(1e9, 1e10), (inf, 1e10), (1e9, inf), (3e9, 2e9)])
def test_without_launches_a_pass_takes_the_sum_over_its_operators(bandwidth, matrices):
    line = roofline(launch_seconds=0, bytes_per_second=bandwidth, flops_per_second=matrices)
    seconds = line.seconds(COUNTS)
    encoder, llm = (
        sum(max(flops / matrices, 2 * elements / bandwidth) for flops, elements in some)
        for some in operators(COUNTS)
    )
    assert seconds.encoder == pytest.approx(encoder)
    assert seconds.prefill == pytest.approx(llm)
    assert seconds.ttft == pytest.approx(encoder + llm)
    assert seconds.launches == seconds.merging == 0


def test_with_slow_launches_a_pass_takes_the_launches_of_each_stage():
    seconds = roofline(launch_seconds=1.0).seconds(COUNTS)
    # One block with one more sequence than one, outside of it 20; one layer, outside of it 90.
    assert seconds.encoder == 20 + 30 + 2
    assert seconds.prefill == 90 + 40
    assert seconds.ttft == seconds.launches == 182
    assert seconds.decode == 50 + 35
    # Two more pictures.
    more = replace(roofline(launch_seconds=1.0), runs=3).seconds(COUNTS)
    assert (more.encoder, more.prefill) == (52 + 2 * 7, 130 + 2 * 11)


def test_each_stage_takes_the_larger_of_host_and_device():
    free = roofline(launch_seconds=0).seconds(COUNTS)
    # Between the two stages' seconds a kernel: in one the device decides, in the other the host.
    each = free.encoder / 52, free.prefill / 130
    launch = sum(each) / 2
    assert each[1] < launch < each[0]
    seconds = roofline(launch_seconds=launch).seconds(COUNTS)
    assert seconds.encoder == pytest.approx(free.encoder)
    assert seconds.prefill == pytest.approx(launch * 130)
    assert seconds.ttft > max(free.ttft, seconds.launches)


def test_decoding_reads_weights_and_cache():
    decode = roofline(launch_seconds=0, flops_per_second=inf).seconds(COUNTS).decode
    weights = 16 * 16 * 2 + 2 * 16 * 8 + 3 * 16 * 40 + 16 * 100
    activations = 2 * (32 + 24 + 24 + 32 + 3 * 56 + 116 + LLM_PASSES * 16 + LLM_MLP_PASSES * 40)
    cache = 2 * (2 * 16 + 2 * 12 * 8)
    assert decode == pytest.approx(2 * (weights + activations + cache) / 1e9)


def test_a_prefill_reads_the_weights_of_all_experts_that_it_reaches():
    # Two of eight experts of 15 features each, a shared one of 10: 40 active features; half of the layers.
    experts = Experts(8, 2, 15, 0.5)
    free = roofline(launch_seconds=0, flops_per_second=inf)
    mixed = replace(free, experts=experts)
    # 22 tokens reach 8 * (1 - 0.75**22) experts of 3 maps of 15 * 16 weights, of which 2 are counted.
    weights = 0.5 * (8 * (1 - 0.75**22) - 2) * 3 * 15 * 16
    more = mixed.seconds(COUNTS).prefill - free.seconds(COUNTS).prefill
    assert more == pytest.approx(2 * weights / 1e9)
    # Two rows decode a token each: 3.5 experts.
    more = mixed.seconds(COUNTS).decode - free.seconds(COUNTS).decode
    assert more == pytest.approx(2 * 0.5 * 1.5 * 3 * 15 * 16 / 1e9)
    # One row decodes with the experts of its token alone, and products are those of active experts.
    one = replace(COUNTS, prefill=replace(COUNTS.prefill, rows=1))
    assert mixed.seconds(one).decode == pytest.approx(free.seconds(one).decode)
    products = roofline(launch_seconds=0, bytes_per_second=inf)
    assert replace(products, experts=experts).seconds(COUNTS) == products.seconds(COUNTS)
    # A recurrent layer has the same MLP.
    recurrent = replace(free, llm=replace(LLM, recurrent=RecurrentDimensions(2, 2, 4, 4, 4)))
    more = replace(recurrent, experts=experts).recurrent_layer(2, 11) - recurrent.recurrent_layer(2, 11)
    assert more == pytest.approx(2 * weights / 1e9)


def test_a_step_reads_its_units_and_selects_round_by_round():
    # Two pictures of 6 units of 4 tokens, of which 2 are kept.
    step = StepReport("encoder", 0, 12, 4)
    shape = step_shape(step, ENCODER, LLM, 4, 2, 1, "sampled")
    assert shape == StepShape(2, 6, 2, 32, 24, 8, 24)
    scores = 2 * max(2 * 24 * 24 * 8 / 1e9, (2 * 24 * 8 + 4 * 24 * 24) / 1e9)
    distances = 2 * max(2 * 6 * 6 * 32 / 1e9, 4 * (6 * 32 + 6 * 6) / 1e9)
    fold = 2 * max(2 * 4 * 2 * 32 / 1e9, merging_cost.FOLD_PASSES * 4 * 6 * 32 / 1e9)
    expected = scores + distances + 2 * merging_cost.SECONDS_PER_ROUND + fold
    assert step_seconds(SLOW, shape) == pytest.approx(expected)
    # Sampled scores have 256 rows at most, those of the LLM one.
    large = replace(step, before=2000, after=20)
    assert step_shape(large, ENCODER, LLM, 4, 2, 1, "sampled").rows == 256
    assert step_shape(large, ENCODER, LLM, 4, 2, 1, "exact").rows == 4000
    assert step_shape(replace(large, stage="llm"), ENCODER, LLM, 4, 2, 5, "exact") == StepShape(
        5, 400, 4, 16, 400, 16, 1
    )


def test_steps_add_their_kernels_waits_and_device_time():
    steps = (StepReport("encoder", 0, 12, 4), StepReport("llm", 1, 4, 2), StepReport("llm", 2, 2, 1))
    # Launches decide: the kernels of each step, those of a merged prefill, and 4 waits.
    bound = roofline(launch_seconds=1.0, synchronisation_seconds=100.0)
    seconds = bound.seconds(COUNTS, steps)
    added = KERNELS_PER_ENCODER_STEP + 2 * KERNELS_PER_LLM_STEP + KERNELS_PER_PREFILL
    assert seconds.ttft == pytest.approx(182 + added + 400)
    assert seconds.merging == pytest.approx(added + 400)
    assert seconds.launches == seconds.ttft
    # The device decides.
    free = roofline(launch_seconds=0, synchronisation_seconds=0)
    device = sum(step_seconds(SLOW, step_shape(s, ENCODER, LLM, 4, 1, 1, "sampled")) for s in steps)
    assert free.seconds(COUNTS, steps).merging == pytest.approx(device)
    assert free.seconds(COUNTS, (StepReport("pixels", -1, 12, 4),)) == free.seconds(COUNTS)


@pytest.mark.parametrize(
    ("stage", "each"), [("encoder", KERNELS_PER_ENCODER_STEP), ("llm", KERNELS_PER_LLM_STEP)]
)
def test_a_large_segment_launches_a_kernel_for_each_unit_it_keeps(stage, each):
    bound = replace(roofline(launch_seconds=1.0, synchronisation_seconds=0), segments=2, runs=2)
    plain = bound.seconds(COUNTS).launches

    def added(units, select="diverse"):
        steps = (StepReport(stage, 0, 2 * units, 2 * 1000),)
        return bound.seconds(COUNTS, steps, select=select).launches - plain - KERNELS_PER_PREFILL

    most = MAX_PAIRWISE_UNITS
    assert added(most) == each
    # Both segments share the kernel of a round.
    assert added(most + 1) == each + 1000 + KERNELS_BESIDE_ROUNDS
    assert added(most + 1, "highest") == each


def test_more_tokens_and_slower_launches_never_make_a_pass_faster():
    modules = locate(tiny_model("qwen2_vl"))
    work = workload(modules, 256)
    kernels = count_kernels(modules.config)
    shape = modules.family.encoder_dimensions(modules.config)
    for launch in (0, 1e-6, 1e-5, 1e-4):
        rates = replace(SLOW, launch_seconds=launch)
        line = Roofline(rates, shape, LLM, kernels, modules.group)
        slower = replace(line, rates=replace(rates, launch_seconds=launch + 1e-6))
        before = 0.0
        for keep in (1 / 18, 1 / 9, 1 / 3, 2 / 3):
            found = predict_on(modules, illava.Illava.best(keep), work)
            seconds = line.seconds(found.token_counts[0], found.steps)
            assert seconds.ttft >= max(seconds.launches, before)
            assert slower.seconds(found.token_counts[0], found.steps).ttft >= seconds.ttft
            before = seconds.ttft


def test_rates_of_data_sheets():
    rates = data_sheet_rates("h100")
    sheet = DATA_SHEETS["h100"]
    assert (rates.dtype, rates.element_size, rates.measured) == ("bfloat16", 2, False)
    assert rates.flops_per_second == MATRIX_EFFICIENCY * sheet.half
    assert rates.bytes_per_second == BANDWIDTH_EFFICIENCY * sheet.bandwidth
    full = data_sheet_rates("h100", torch.float32)
    assert full.flops_per_second == full.float32_flops_per_second == rates.float32_flops_per_second
    assert full.element_size == 4
    assert AcceleratorRates(**rates.to_dict()) == rates
    # In order of age and class: no figure is a thousand times off.
    halves = [DATA_SHEETS[name].half for name in ("l4", "rtx4090", "a100", "h100")]
    assert halves == sorted(halves)
    for sheet in DATA_SHEETS.values():
        assert 1e14 < sheet.half < 1e15
        assert sheet.float32 < sheet.half
        assert 1e11 < sheet.bandwidth < 1e13
    with pytest.raises(ValueError, match="a100, h100, l4, rtx4090"):
        data_sheet_rates("none")
    with pytest.raises(ValueError, match="float64"):
        data_sheet_rates("h100", torch.float64)


def test_rates_of_the_device_at_hand():
    done = []
    state = torch.random.get_rng_state()
    rates = measure_accelerator(config("qwen2_vl"), torch.float32, "cpu", repeats=1, advance=done.append)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sum(done) == PARTS
    assert (rates.name, rates.dtype, rates.measured) == ("cpu", "float32", True)
    for name, value in rates.to_dict().items():
        if name.endswith(("seconds", "per_second")):
            assert isfinite(value), name
            assert value > 0, name
