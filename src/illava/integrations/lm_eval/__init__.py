"""An accelerated model for lm-eval (the Language Model Evaluation Harness), and its command line.

lm-eval finds models of other distributions only once they are imported: import this module and pass
``model="illava"`` or an :class:`IllavaLM` to ``lm_eval.simple_evaluate``, or run
``python -m illava.integrations.lm_eval --model illava ...`` instead of ``lm-eval``.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM

from ...errors import InputError
from ...models.placeholders import visual_counts
from ..opening import EXAMPLE, open_accelerated, read_count

# Below the harness's own, whose level and handler are those of its command line.
logger = logging.getLogger("lm_eval.illava")
FILLED_IN = "cuda:0"
"""The device that lm-eval's command line gives where the user gives none, with a card or without."""


@register_model("illava")
class IllavaLM(HFMultimodalLM):  # type: ignore[misc]
    """lm-eval's ``hf-multimodal`` with an accelerated model.

    Args:
        pretrained, keep, method, config, device, dtype, trust_remote_code: as
            :func:`illava.integrations.opening.open_accelerated` takes them.
        batch_size: prompts that are answered together.
        options: further arguments of ``hf-multimodal``, such as ``max_images`` or ``max_pixels``.

    Raises InputError or UnsupportedError, also for unknown arguments. Tasks by likelihood with pictures are
    refused by ``hf-multimodal`` itself.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        keep: float | str | None = None,
        method: Any = None,
        config: Any = None,
        device: str | None = None,
        dtype: str | None = None,
        trust_remote_code: bool | str = False,
        batch_size: int | str = 1,
        **options: Any,
    ) -> None:
        known = {*inspect.signature(HFMultimodalLM).parameters, *inspect.signature(HFLM).parameters}
        if unknown := sorted({*options} - known):
            raise InputError(
                f"model_args {', '.join(unknown)}: neither illava nor hf-multimodal has them; {EXAMPLE} works"
            )
        size = read_count("batch_size", batch_size)
        if device == FILLED_IN and not torch.cuda.is_available():
            device = None
        self.opened = open_accelerated(pretrained, keep, method, config, device, dtype, trust_remote_code)
        self.visual_tokens = {"before": 0, "after": 0}
        """Of all prompts so far, before merging and after its last step."""
        # A tokenizer of the options would leave hf-multimodal without a processor.
        super().__init__(
            self.opened.model,
            batch_size=size,
            trust_remote_code=trust_remote_code,
            **{**options, "tokenizer": None},
        )
        logger.info("%s, on %s, batch size %d", self.opened, self.device, size)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer all questions, and log how many visual tokens they had."""
        answers: list[str] = super().generate_until(requests, disable_tqdm)
        logger.info("visual tokens: %(before)d before merging, %(after)d after it", self.visual_tokens)
        return answers

    def get_model_info(self) -> dict[str, Any]:
        """What the results say of the model: also the method and the visual tokens."""
        own = {"method": self.opened.handle.method.to_dict(), "visual_tokens": dict(self.visual_tokens)}
        return {**super().get_model_info(), "illava": own}

    def _model_multimodal_generate(self, inputs: Any, max_length: int, stop: Any, **options: Any) -> Any:
        sequences = super()._model_multimodal_generate(inputs, max_length, stop, **options)
        before = sum(visual_counts(self.opened.handle.modules.config, inputs["input_ids"]))
        if before:
            # Beams of a prompt have rows of their own.
            rows = self.opened.handle.report.row_tokens[:: int(options.get("num_beams", 1))]
            self.visual_tokens["before"] += before
            self.visual_tokens["after"] += sum(tokens[-1] for tokens in rows)
        return sequences
