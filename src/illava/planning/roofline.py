"""Predicts the time of a pass on an accelerator from the operators of its layers.

Up to the first token the host launches the kernels of the encoder, waits for the visual tokens, then launches
those of the LLM. Each of the two stages takes the larger of the host's and the device's time. A pass is
therefore never faster than its launches, however few tokens are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.dimensions import EncoderDimensions, LlmDimensions
from .accelerator import AcceleratorRates
from .cost import recurrent_layer_flops
from .counts import StepReport, TokenCounts
from .experts import Experts
from .kernels import KernelCounts
from .merging_cost import (
    KERNELS_PER_PREFILL,
    WAITS_PER_PREFILL,
    sizes_kernels,
    step_kernels,
    step_seconds,
    step_shape,
)
from .seconds import Seconds

ENCODER_PASSES, ENCODER_MLP_PASSES = 40, 3
"""Estimates: how many tensors of (tokens, hidden) and of (tokens, intermediate) the elementwise operators of
an encoder block read and write: norms, residuals, rotary embeddings in float32; activation."""
LLM_PASSES, LLM_MLP_PASSES = 60, 5
"""The same for an LLM layer, whose norms take six operators each; SiLU and the product with its gate."""


@dataclass(frozen=True)
class Roofline:
    """A model on an accelerator, for prompts of one layout."""

    rates: AcceleratorRates
    encoder: EncoderDimensions
    llm: LlmDimensions
    kernels: KernelCounts
    group: int = 1
    """Tokens of a unit of the encoder."""
    segments: int = 1
    """Of the encoder, over the batch."""
    runs: int = 1
    """Runs of visual tokens in the LLM, over the batch; each counts as a picture."""
    experts: Experts | None = None
    """Of the LLM, if its MLPs have any; ``llm.intermediate`` is then their active width."""

    def seconds(
        self,
        counts: TokenCounts,
        steps: Sequence[StepReport] = (),
        score: str = "sampled",
        select: str = "diverse",
        sized: tuple[int, int] = (0, 0),
    ) -> Seconds:
        """Predicted seconds of a pass with these token counts, which ``steps`` lead to.

        ``score``, ``select``: those of the method, as for :class:`illava.Illava`. ``sized``: see
        :func:`illava.planning.merging_cost.sized_layers`."""
        free = self._seconds(counts, (0.0, 0.0), (0.0, 0.0), 0)
        launched = [step for step in steps if step.stage != "pixels"]
        if not launched:
            return free
        of_sizes = sizes_kernels(*sized)
        kernels, device = [of_sizes[0], KERNELS_PER_PREFILL + of_sizes[1]], [0.0, 0.0]
        for step in launched:
            shape = step_shape(step, self.encoder, self.llm, self.group, self.segments, self.runs, score)
            kernels[step.stage == "llm"] += step_kernels(step.stage, shape, select)
            device[step.stage == "llm"] += step_seconds(self.rates, shape)
        return self._seconds(
            counts, (kernels[0], kernels[1]), (device[0], device[1]), WAITS_PER_PREFILL, free.ttft
        )

    def _seconds(
        self,
        counts: TokenCounts,
        added: tuple[float, float],
        device: tuple[float, float],
        waits: int,
        free: float | None = None,
    ) -> Seconds:
        """``added``, ``device``: kernels and device seconds of the steps in each stage.

        ``free``: time to first token without these."""
        launch = self.rates.launch_seconds
        waiting = waits * self.rates.synchronisation_seconds
        host = (
            launch * (self.kernels.of_encoder(counts, self.runs) + added[0]),
            launch * (self.kernels.of_prefill(counts, self.runs) + added[1]),
        )
        encoder = max(host[0], self.encoder_device(counts) + device[0])
        prefill = max(host[1], self.prefill_device(counts) + device[1]) + waiting
        ttft = encoder + prefill
        return Seconds(
            encoder=encoder,
            prefill=prefill,
            ttft=ttft,
            decode=max(launch * self.kernels.of_decode(counts), self.decode_device(counts)),
            merging=0.0 if free is None else ttft - free,
            # In the order of ``ttft``, so that rounding does not make it less.
            launches=host[0] + (host[1] + waiting),
        )

    def encoder_device(self, counts: TokenCounts) -> float:
        """Device seconds of the image encoder and the projector."""
        shape, total = self.encoder, 0.0
        for call in counts.encoder:
            total += self.linear(call.embedded, shape.patch_values, shape.hidden)
            for units in (call.projected, *call.tapped):
                total += sum(self.linear(units, a, b) for a, b in shape.projector)
            for segments, mlp_tokens in zip(call.sequences, call.mlp_tokens, strict=True):
                total += self.encoder_block(segments, mlp_tokens)
        return total

    def encoder_block(self, segments: Sequence[int], mlp_tokens: int) -> float:
        """Device seconds of an encoder block; see :func:`illava.planning.cost.encoder_block_flops`."""
        shape, tokens = self.encoder, sum(segments)
        h, i = shape.hidden, shape.intermediate
        return (
            self.linear(tokens, h, 3 * h)
            + self.linear(tokens, h, h)
            + self._kernel(4 * h * sum(n * n for n in segments), 4 * tokens * h)
            + (shape.mlp_matrices - 1) * self.linear(mlp_tokens, h, i)
            + self.linear(mlp_tokens, i, h)
            + self._kernel(0, ENCODER_PASSES * tokens * h + ENCODER_MLP_PASSES * mlp_tokens * i)
        )

    def prefill_device(self, counts: TokenCounts) -> float:
        """Device seconds of the prefill and the language-model head."""
        rows, total = counts.prefill.rows, 0.0
        for tokens, attends in zip(counts.prefill.tokens, counts.prefill.attends, strict=True):
            total += self.llm_layer(rows, tokens, tokens) if attends else self.recurrent_layer(rows, tokens)
        return total + self.linear(rows, self.llm.hidden, self.llm.vocabulary)

    def decode_device(self, counts: TokenCounts) -> float:
        """Device seconds of the first decoding step."""
        rows, total = counts.prefill.rows, 0.0
        for cached, attends in zip(counts.prefill.cached, counts.prefill.attends, strict=True):
            total += self.llm_layer(rows, 1, cached + 1) if attends else self.recurrent_layer(rows, 1)
        return total + self.linear(rows, self.llm.hidden, self.llm.vocabulary)

    def llm_layer(self, rows: int, tokens: int, keys: int) -> float:
        """Device seconds of an LLM layer with attention on ``tokens`` new tokens in each row."""
        llm, new = self.llm, rows * tokens
        width, narrow = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
        attention = self._kernel(4 * new * keys * width, 2 * new * width + 2 * rows * keys * narrow)
        projections = (
            self.linear(new, llm.hidden, (2 if llm.gated else 1) * width)
            + 2 * self.linear(new, llm.hidden, narrow)
            + self.linear(new, width, llm.hidden)
        )
        return attention + projections + self._mlp(new)

    def recurrent_layer(self, rows: int, tokens: int) -> float:
        """Device seconds of a recurrent LLM layer, from its FLOPs and the weights of its MLP."""
        flops = rows * recurrent_layer_flops(self.llm, tokens)
        weights = 3 * self.llm.hidden * (self.llm.intermediate + self._more_width(rows * tokens))
        return self._kernel(flops, weights) + self._elementwise(rows * tokens)

    def linear(self, rows: float, fan_in: int, fan_out: int, more: float = 0.0) -> float:
        """Device seconds of a linear layer on ``rows`` rows, and ``more`` weights of other experts."""
        return self._kernel(2 * rows * fan_in * fan_out, fan_in * fan_out + more + rows * (fan_in + fan_out))

    def _mlp(self, tokens: int) -> float:
        hidden, intermediate = self.llm.hidden, self.llm.intermediate
        more = hidden * self._more_width(tokens)
        up, down = (hidden, intermediate, more), (intermediate, hidden, more)
        return 2 * self.linear(tokens, *up) + self.linear(tokens, *down) + self._elementwise(tokens)

    def _more_width(self, tokens: int) -> float:
        return 0.0 if self.experts is None else self.experts.more_width(tokens)

    def _elementwise(self, tokens: int) -> float:
        llm = self.llm
        return self._kernel(0, tokens * (LLM_PASSES * llm.hidden + LLM_MLP_PASSES * llm.intermediate))

    def _kernel(self, flops: float, elements: float) -> float:
        return self.rates.device_seconds(flops, elements * self.rates.element_size)
