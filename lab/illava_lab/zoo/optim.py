"""Muon for hidden weight matrices: momentum whose update is made orthogonal (Jordan et al., 2024).

torch.optim.Muon computes in bfloat16, which is slow on CPUs without it; this one stays in float32.
"""

import torch


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Push the singular values of a float32 (rows, columns) matrix towards 1 by Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for 2-D weights only.

    ``blocks`` in a parameter group splits its weights into that many equal row blocks (a fused query,
    key and value projection is 3 matrices).
    """

    def __init__(
        self, groups: list[dict], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "blocks": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(state["momentum"], group["momentum"])
                parts = [orthogonalize(part) for part in update.chunk(group["blocks"])]
                scale = max(1.0, parts[0].shape[0] / parts[0].shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(torch.cat(parts), alpha=-group["lr"] * scale)
