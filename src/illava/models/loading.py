"""Loading a model and its processor by name. Remote code and pickled weights are refused unless trusted."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor
from transformers.utils.hub import cached_file

from ..errors import InputError
from ..io.files import protect
from ..io.texts import is_url
from ..plugins import INSTALL_LAB, LAB, LAB_MODELS, model_names, models, prefixes
from .families import family_of

DTYPES = ("float32", "bfloat16", "float16")
FLAG = "--trust-remote-code"
PICKLES = (
    f"pickles can run code when they are loaded: convert it to safetensors, or, if you trust it, add {FLAG}"
)
SAFE = (".safetensors", ".safetensors.index.json")


def load(
    model: str = "zoo/L", device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> tuple[nn.Module, Any]:
    """Load a supported model and its processor.

    Args:
        model: a registered model (``illava.zoo.names()``), a folder, or an id of the Hugging Face hub.
        device: "auto" (cuda if available, else cpu) or any torch device.
        dtype: one of ``DTYPES``, or "auto": float32 on CPUs, many of which run bfloat16 tens of times
            slower, and the checkpoint's dtype on other devices.
        trust_remote_code: run Python code that comes with the model, and load pickled weights. Both can
            execute arbitrary code.

    Raises a one-line InputError for anything missing, broken or not trusted, and UnsupportedError for
    unsupported families. Warns about weights that do not belong to the model.
    """
    target, requested = parse_device(device), parse_dtype(dtype)
    torch_dtype = requested or (torch.float32 if target.type == "cpu" else "auto")
    config = read_config(model, trust_remote_code)
    family_of(config)
    processor = _read_processor(model, config, trust_remote_code)
    source = resolve(model)
    if not trust_remote_code and (pickled := _pickled(source, getattr(config, "transformers_weights", None))):
        raise InputError(f"model {model}: {pickled} is pickled, and {PICKLES}")
    try:
        # With output_loading_info it returns a pair, which its annotation omits.
        result: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            config=config,
            dtype=torch_dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=trust_remote_code,
            # None: safetensors if there are any.
            use_safetensors=None if trust_remote_code else True,
        )
        loaded, loading_info = result
    except Exception as error:
        raise _refusal(model, "its weights cannot be loaded", error) from error
    # transformers initialises missing weights with random numbers and continues.
    if loading_info["missing_keys"] or loading_info["mismatched_keys"]:
        names = sorted(str(key) for key in {*loading_info["missing_keys"], *loading_info["mismatched_keys"]})
        raise InputError(
            f"model {model}: its weights do not match its config.json: {len(names)} are missing or of "
            f"another shape, for example {names[0]}"
        )
    if extra := sorted(map(str, loading_info["unexpected_keys"])):
        warnings.warn(
            f"model {model}: {len(extra)} of its weights do not belong to the model, for example {extra[0]}",
            stacklevel=2,
        )
    loaded.to(target).eval()
    return loaded, processor


def _pickled(source: str, weights: str | None) -> str | None:
    """A file that transformers would unpickle even with ``use_safetensors=True``, or None.

    transformers loads any file named by ``config.transformers_weights``, an index of shards, or an adapter.
    """

    def find(name: str) -> str | None:
        missing = "gated_repo", "missing_entries", "connection_errors"
        return cached_file(source, name, **{f"_raise_exceptions_for_{kind}": False for kind in missing})

    if weights is not None and not weights.endswith(SAFE):
        return weights
    index = find(weights if weights and weights.endswith(".json") else "model.safetensors.index.json")
    if index is not None:
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
        if named := next((str(shard) for shard in shards if not str(shard).endswith(SAFE)), None):
            return named
    if find("adapter_config.json") and not find("adapter_model.safetensors"):
        return find("adapter_model.bin") and "adapter_model.bin"
    return None


def _refusal(model: str, what: str, error: Exception) -> InputError:
    """An error of transformers in one line, with advice if it is about trust."""
    text, source = str(error), resolve(model)
    if "trust_remote_code" in text or "custom code" in text:
        return InputError(
            f"model {model}: {what}: it needs code that comes with the model, which is not run by default; "
            f"if you trust it, add {FLAG}"
        )
    if "model.safetensors" in text and ("no file named" in text or "not appear to have" in text):
        files = os.listdir(source) if os.path.isdir(source) else []
        if pickles := sorted(file for file in files if file.endswith((".bin", ".pt", ".pth"))):
            return InputError(f"model {model}: {what}: {pickles[0]} is pickled, and {PICKLES}")
        what = f"{what}, because there are no safetensors ({FLAG} also allows pickled weights)"
    tail = "" if os.path.isdir(source) else f"; give a folder, a hub id or one of {_shipped()}"
    return InputError(f"model {model}: {what}: {reason(error)}{tail}")


def absolute(model: str) -> str:
    """The name of a model for processes with other working directories: a folder by its absolute path.

    Raises InputError as :func:`resolve` does.
    """
    source = resolve(model)
    own = source == os.path.expanduser(model) and os.path.isdir(source)
    return os.path.abspath(source) if own else model


def resolve(model: str) -> str:
    """Resolve the name of a model to a folder or an id of the hub. Raises InputError if it is neither."""
    prefix = model.partition("/")[0]
    if "/" in model and prefix in {LAB_MODELS, *prefixes()}:
        if prefix not in models() and prefix in prefixes():
            raise InputError(f"model {model}: what registers {prefix}/ cannot be used; see the warning above")
        if prefix not in models():
            raise InputError(f"model {model}: it is part of {LAB}: {INSTALL_LAB}")
        try:
            return str(models()[prefix].path(model))
        except ValueError as error:
            raise InputError(f"model {model}: {error}") from None
    # os.path instead of pathlib, since it never raises for any name.
    folder = os.path.expanduser(model)
    if os.path.isdir(folder):
        if not os.path.isfile(os.path.join(folder, "config.json")):
            raise InputError(
                f"model {model}: the folder has no config.json; give one written by save_pretrained"
            )
        protect(folder, *(os.path.join(folder, name) for name in os.listdir(folder)))
        return folder
    if os.path.exists(folder):
        raise InputError(f"model {model}: this is a file; give the folder that holds the model")
    if is_url(model):
        raise InputError(f"model {model}: URLs are not read; give a folder, or the id after the host name")
    if model.startswith(("/", ".", "~")) or model.count("/") > 1 or not model.strip():
        raise InputError(f"model {model}: no such folder; give a folder, a hub id or one of {_shipped()}")
    return model


def read_config(model: str, trust_remote_code: bool = False) -> Any:
    """The transformers config of a model, without its weights. Raises InputError."""
    source = resolve(model)
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _refusal(model, "its config cannot be read", error) from error


def _read_processor(model: str, config: Any, trust_remote_code: bool) -> Any:
    reader: Any = AutoProcessor
    try:
        processor = reader.from_pretrained(resolve(model), trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _refusal(model, "its processor cannot be loaded", error) from error
    # transformers accepts an incomplete processor, or an empty tokenizer.
    image_token, tokenizer = (getattr(processor, name, None) for name in ("image_token", "tokenizer"))
    if (
        tokenizer is None
        or image_token not in tokenizer.get_vocab()
        or tokenizer.convert_tokens_to_ids(image_token) != config.image_token_id
    ):
        raise InputError(
            f"model {model}: its processor does not match the model; check that preprocessor_config.json, "
            "tokenizer.json and tokenizer_config.json are present"
        )
    return processor


def pixel_limits(model: str, trust_remote_code: bool = False) -> tuple[int, int] | None:
    """Minimum and maximum number of pixels to which a model's processor resizes a picture; None if unknown.

    Raises InputError for a processor that needs untrusted code.
    """
    reader: Any = AutoImageProcessor
    source = resolve(model)
    try:
        size = reader.from_pretrained(source, trust_remote_code=trust_remote_code).size
        return int(size["shortest_edge"]), int(size["longest_edge"])
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise _refusal(model, "its image processor cannot be loaded", error) from error
        # No processor, or one with other kinds of limits.
        return None


def parse_device(name: str) -> torch.device:
    """An available torch device; "auto" is cuda if available, else cpu. Raises InputError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    available += ["mps"] if torch.backends.mps.is_available() else []
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type != "meta":
            return device
    except Exception:
        # The exception for an unavailable device depends on the backend.
        pass
    raise InputError(f"device {name}: not available; this machine has {', '.join(available)}")


def parse_dtype(name: str) -> torch.dtype | None:
    """A floating torch dtype; None for "auto". Raises InputError."""
    if name not in ("auto", *DTYPES):
        raise InputError(f"dtype {name}: give one of auto, {', '.join(DTYPES)}")
    return None if name == "auto" else getattr(torch, name)


def _shipped() -> str:
    return ", ".join(model_names()) or f"the models of {LAB}"


def reason(error: Exception) -> str:
    """The first line of an error of transformers or the hub; the rest is advice about their options."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
