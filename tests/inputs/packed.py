"""Linear layers as quantized checkpoints have them: no ``weight`` of floats, and a forward of their own.

Their weights are laid out as the formats lay them out, and each layer can say which ordinary layer it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROUP = 8


class Packed(nn.Module):
    """Base: ``rows`` gives the (out, in) fp32 weights, which ``forward`` makes anew in every call."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.pack(linear.weight.detach())

    def pack(self, weight: Tensor) -> None:
        raise NotImplementedError

    def rows(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out = x @ self.rows().to(x.dtype).T
        return out if self.bias is None else out + self.bias.to(x.dtype)

    def ordinary(self) -> nn.Linear:
        """The linear layer with these weights."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        linear.weight = nn.Parameter(self.rows())
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.clone())
        return linear


def levels(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(out, groups, GROUP) integers from 0 to 15, scales and zero points of groups of inputs."""
    groups = weight.view(len(weight), -1, GROUP)
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    scale = (groups.amax(-1, keepdim=True).clamp(min=0) - low).clamp(min=1e-4) / 15
    zero = (-low / scale).round()
    return ((groups / scale).round() + zero).clamp(0, 15).int(), scale, zero.int()


class Gptq(Packed):
    """Eight inputs in an int32, from the lowest bits, and the group of each input (``g_idx``)."""

    def pack(self, weight: Tensor) -> None:
        numbers, scale, zero = levels(weight)
        flat = numbers.view(len(weight), -1, 8)
        word = sum(flat[..., i].long() << (4 * i) for i in range(8))
        self.register_buffer("qweight", word.to(torch.int32).T.contiguous())
        self.register_buffer("scales", scale[..., 0].T.contiguous())
        self.register_buffer("zeros", zero[..., 0].T.contiguous())
        self.register_buffer("g_idx", torch.arange(self.in_features, dtype=torch.int32) // GROUP)

    def rows(self) -> Tensor:
        shifts = torch.arange(0, 32, 4)[None, :, None]
        numbers = (self.qweight.long()[:, None] >> shifts & 15).reshape(self.in_features, -1)
        group = self.g_idx.long()
        return ((numbers - self.zeros[group]) * self.scales[group]).T.contiguous()


class Awq(Packed):
    """Eight outputs in an int32, interleaved, if there are as many; half-precision scales."""

    ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

    def pack(self, weight: Tensor) -> None:
        numbers, scale, zero = levels(weight)
        flat = nn.functional.pad(numbers.view(len(weight), -1).T, (0, -len(weight) % 8))
        flat = flat.reshape(self.in_features, -1, 8)
        word = sum(flat[..., place].long() << (4 * i) for i, place in enumerate(self.ORDER))
        self.register_buffer("qweight", word.to(torch.int32))
        self.register_buffer("scales", scale[..., 0].T.half())
        self.register_buffer("qzeros", zero[..., 0].T.to(torch.int8))

    def rows(self) -> Tensor:
        out = torch.empty(self.in_features, self.qweight.shape[1], 8)
        for i, place in enumerate(self.ORDER):
            out[..., place] = (self.qweight.long() >> (4 * i) & 15).float()
        numbers = out.flatten(1)[:, : self.out_features].view(-1, GROUP, self.out_features)
        values = (numbers - self.qzeros[:, None]) * self.scales[:, None].float()
        return values.flatten(0, 1).T.contiguous()


class Fp8(Packed):
    """Floats of 8 bits with an inverse scale for each block of 8 x 8; one is named ``weight``."""

    def pack(self, weight: Tensor) -> None:
        wide = nn.functional.pad(weight, (0, -weight.shape[1] % GROUP, 0, -len(weight) % GROUP))
        blocks = wide.unflatten(1, (-1, GROUP)).unflatten(0, (-1, GROUP))
        scale = blocks.abs().amax((1, 3)).clamp(min=1e-4) / 448
        stored = (blocks / scale[:, None, :, None]).flatten(2, 3).flatten(0, 1)
        stored = stored[: len(weight), : weight.shape[1]].to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.weight_scale_inv = nn.Parameter(scale, requires_grad=False)

    def rows(self) -> Tensor:
        rows, columns = self.weight.shape
        scale = self.weight_scale_inv.repeat_interleave(GROUP, 0).repeat_interleave(GROUP, 1)
        return self.weight.float() * scale[:rows, :columns]


FORMATS = {"GPTQ": Gptq, "AWQ": Awq, "FP8": Fp8}


def packed_and_ordinary(model: nn.Module, kind: type[Packed], other: nn.Module) -> int:
    """Replace the linear layers of ``model`` by packed ones, and those of its copy by the ordinary ones.

    Heads stay, as in most checkpoints. Returns how many were replaced.
    """
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    names = [name for name in names if "lm_head" not in name]
    names = [name for name in names if model.get_submodule(name).in_features % GROUP == 0]
    for name in names:
        packed = kind(model.get_submodule(name))
        model.set_submodule(name, packed)
        other.set_submodule(name, packed.ordinary())
    return len(names)
