"""``accelerate``, the entry point of the library, and the handle that undoes it."""

from __future__ import annotations

from types import TracebackType

from torch import Tensor, nn

from .errors import UnsupportedError, renamed
from .methods import Illava, Method
from .methods.presets import default_method
from .methods.shipped import shipped_with
from .methods.steps import Plan
from .models.located import LocatedModules, check_feature_layer, check_projector, locate
from .report.building import make_report
from .report.report import Report
from .runtime.attention_tap import check_backend
from .runtime.calls import Calls
from .runtime.checks import check_before_llm, check_features, check_gradients
from .runtime.contract import check_contract
from .runtime.encoder.stage import EncoderStage
from .runtime.hooks import Hooks
from .runtime.llm.labels import aligned
from .runtime.llm.masks import check_biases, check_masks
from .runtime.llm.stage import LlmStage
from .runtime.passes import Pass, Passes
from .runtime.projector import ProjectorStage

_MARK = "_illava_handle"


class Handle:
    """An accelerated model. Use it as a context manager, or call :meth:`remove` when done."""

    def __init__(self, model: nn.Module, method: Method, *, trace: bool = False, train: bool = False) -> None:
        self.model, self.method = model, method
        self.modules = locate(model)
        if getattr(self.modules.base, _MARK, None) is not None:
            raise ValueError("this model is accelerated already; call remove() on its handle first")
        for config in (self.modules.config.vision_config, self.modules.llm.config):
            check_backend(config)
        self.plan: Plan = method.plan(self.modules)
        """The merge steps on this model."""
        if train:
            check_gradients(self.plan, method.name)
        check_before_llm(self.modules, self.plan)
        check_features(self.modules, self.plan)
        check_contract(self.modules, self.plan)
        check_feature_layer(self.modules, self.plan.encoder)
        if self.plan.encoder or self.plan.projector is not None:
            check_projector(self.modules)
        check_biases(self.modules, self.plan)
        if not self.plan.empty:
            check_masks(self.modules)
        if any(self.plan.llm) and any(self.modules.recurrent):
            raise UnsupportedError(
                f"the LLM stage is not supported for {self.modules.family.model_type}, whose recurrent "
                "layers have no keys and values to drop; use a method of the image encoder, such as "
                "Illava(llm_layers=())"
            )
        self._last: Pass | None = None
        """The last completed pass over a prompt with pictures."""
        self._hooks = Hooks()
        try:
            self._hooks.attribute(self.modules.base, _MARK, self)
            self._calls = calls = Calls(self.modules, self._hooks)
            passes = Passes(self.modules.base, calls, self._hooks)
            encoder = EncoderStage(self.modules, self.plan, passes, self._hooks, trace=trace)
            ProjectorStage(self.modules, self.plan.projector, encoder, self._hooks)
            LlmStage(
                self.modules, self.plan, passes, encoder.features, self._hooks, self._publish, trace=trace
            )
            calls.close()
        except BaseException:
            self._hooks.remove()
            raise

    @property
    def report(self) -> Report:
        """The report of the last completed prefill with images. Raises ValueError before the first one."""
        if self._last is None:
            raise ValueError("there is no report yet: run the model on a prompt with a picture first")
        return make_report(self.modules, self.method, self.plan, self._last)

    def align(self, values: Tensor, fill: float = -100) -> Tensor:
        """Values for each token of the last prompt with pictures, for a loss of your own on its logits.

        Args:
            values: (B, L, ...), such as labels or a mask, in the order of ``input_ids``.
            fill: the value of padding, and of tokens that stand in for it in the logits.

        Returns (B, n, ...): the values of the n tokens that the logits have, of which the last are the last
        of the prompt. As in any causal LM, the logits at index i predict the token at index i + 1. Raises
        ValueError before the first prompt with pictures, and for values of another shape.
        """
        prefill = None if self._last is None else self._last.prefill
        if prefill is None:
            raise ValueError("there is nothing to align yet: run the model on a prompt with a picture first")
        shape = tuple(prefill.prompt.runs.shape)
        if tuple(values.shape[:2]) != shape:
            raise ValueError(f"values must start with (B, L) = {shape}, got {tuple(values.shape)}")
        return aligned(values, prefill.history[-1][1].columns, fill)

    def remove(self) -> None:
        """Remove all hooks: outputs are again bit-identical to the plain model's. Idempotent."""
        # Wait for calls of other threads.
        with self._calls.lock.block():
            self._hooks.remove()

    def __enter__(self) -> Handle:
        if not self._hooks.owner.active:
            raise ValueError("this handle was removed already; call accelerate() again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def parts(self) -> LocatedModules:
        """Deprecated name of ``modules``."""
        modules: LocatedModules = renamed(self, "parts", "modules")
        return modules

    def _publish(self, completed: Pass) -> None:
        self._last = completed


def accelerate(
    model: nn.Module,
    method: Method | None = None,
    *,
    keep: float | None = None,
    trace: bool = False,
    train: bool = False,
) -> Handle:
    """Make a loaded vision-language model faster by merging its redundant visual tokens.

    Attaches hooks to this instance only; ``generate`` and ``forward`` are called as before. To restore the
    plain model, use the returned handle as a context manager or call its ``remove()``.

    Args:
        model: a transformers VLM of a supported family (:func:`illava.supported_families`), on any device,
            in any floating dtype, with SDPA, eager, flash or flex attention.
        method: which tokens to merge and where, e.g. ``illava.Illava(...)``. Default, without ``keep``:

            1. the method in ``illava_config.json`` beside the weights, in the folder or hub repository that
               the model was loaded from, if there is one (:meth:`illava.Method.save_pretrained` writes it).
               The hub is queried at most once per model, and never with ``HF_HUB_OFFLINE``, for models loaded
               from a folder, or for models created from a config;
            2. otherwise ``illava.Illava.best(keep=1 / 3)``.

            ``handle.method`` is the method in use. ``illava.Illava()`` is the schedule published for the
            model's family.
        keep: share of all visual tokens left at the end, in (0, 1]: ``illava.Illava.best(keep)``. For a
            speed-up or a cache size see :func:`illava.plan`.
        trace: record in ``report.traces``, step by step, which patches are kept, which are merged into
            others, and with what weight. This costs time and memory; without it there is no overhead.
        train: require that every visual token has a gradient, its own or that of the token that absorbs it.
            Methods that drop tokens are refused. Without it, any method can be trained with, and dropped
            tokens have no gradient of the layers after.

    Raises:
        UnsupportedError: the model's family or attention backend is not supported, or the installed
            transformers lacks something that illava relies on; the message names it. With ``train``, the
            method drops tokens.
        ValueError: the model is accelerated already, both ``method`` and ``keep`` are given, the method
            names a layer that the model does not have, or ``illava_config.json`` is not valid.

    While accelerated, logits cover the remaining tokens, so they are shorter than ``input_ids``. With
    ``labels``, the loss is that of the remaining tokens, and the token before the first label after the last
    picture scores the visual tokens, as it does when the model answers. Labels of dropped placeholders are
    dropped too; those of padding must be -100. Right padding is kept, so the last logits are at the same
    index from the end.
    ``get_image_features``, and the ``image_outputs`` of a forward, keep a row for every placeholder, NaN
    where the encoder dropped a token, and can be passed in again. With ``keep=1.0``, or without images,
    logits are bit-identical to the plain model's. Calls from several threads run one after another. A call
    raises UnsupportedError for inputs that cannot be merged, and RuntimeError if a merged prefill turns out
    inconsistent.

    Example::

        with illava.accelerate(model, keep=1 / 3) as handle:
            model.generate(**inputs, max_new_tokens=32)
        print(handle.report)
    """
    if method is not None and not isinstance(method, Method):
        raise ValueError(
            f"expected a method such as illava.Illava(...), or keep=0.5 for a budget; got {method!r}"
        )
    if method is not None and keep is not None:
        raise ValueError("give either a method or keep; a method has its own keep")
    if method is None and keep is not None:
        method = Illava.best(keep)
    if method is None:
        shipped = shipped_with(model)
        if shipped is not None:
            try:
                return Handle(model, shipped.method, trace=trace, train=train)
            except ValueError as error:
                raise ValueError(f"{shipped.file}: {error}") from error
        method = default_method()
    return Handle(model, method, trace=trace, train=train)
