"""The mathematics of Muon on stacks of same-shape matrices: orthogonalisation, and NorMuon's evening out of its rows.

Pure functions of tensors, tested against singular values and a slow twin; the stack is one batch, so that many small
matrices cost as few kernels as one. Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Not here:
momentum, learning rates, processes (nanochat/optim.py).
"""

import torch
from torch import Tensor

# Each step maps a singular value s to a s + b s³ + c s⁵. The classic quintic of the Muon post: steep at zero, singular
# values end between about 0.7 and 1.2. Polar Express (arXiv:2505.16932, list for 5 steps): the best polynomial per step.
CLASSIC = ((3.4445, -4.7750, 2.0315),) * 5
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
SAFETY = {CLASSIC: 1.0, POLAR_EXPRESS: 1.01}  # Polar Express diverges above 1, where rounding can put a singular value


def orthogonalize(
    stack: Tensor, steps: tuple[tuple[float, float, float], ...] = CLASSIC, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """For each matrix U S Vᵀ of `stack` (N, rows, cols) about U Vᵀ, in `dtype`; a zero matrix stays zero.

    Newton-Schulz iteration; bf16 is enough for an update (Muon post) and three times as fast as fp32 on a CPU.
    """
    tall = stack.size(1) > stack.size(2)
    x = stack.mT if tall else stack
    x = (x / (x.norm(dim=(1, 2), keepdim=True) * SAFETY.get(steps, 1.0) + 1e-7)).to(dtype)
    for a, b, c in steps:
        gram = torch.bmm(x, x.mT)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x.mT if tall else x


def even_out(update: Tensor, variance: Tensor, beta: float) -> Tensor:
    """Divide each row of `update` (N, rows, cols) by its running root mean square, keeping the Frobenius norm of each matrix.

    NorMuon (arXiv:2510.05491). Lines run along the longer side, where orthogonality leaves norms free; `variance`, of shape
    (N, rows, 1) or (N, 1, cols), is updated in place.
    """
    along = -1 if update.size(1) >= update.size(2) else -2
    variance.lerp_(update.square().mean(dim=along, keepdim=True), 1 - beta)
    scaled = update * (variance + 1e-10).rsqrt()
    return scaled * (update.norm(dim=(1, 2), keepdim=True) / (scaled.norm(dim=(1, 2), keepdim=True) + 1e-10))
