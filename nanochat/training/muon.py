"""The mathematics of Muon on stacks of same-shape matrices: orthogonalisation, and what evens out its input and result.

Pure functions of tensors, tested against singular values and a slow twin; the stack is one batch, so that many small
matrices cost as few kernels as one. Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Not here:
momentum, learning rates, processes (nanochat/training/optim.py).
"""

import torch
from torch import Tensor

Steps = tuple[tuple[float, float, float], ...]

# Each step maps a singular value s to a s + b s³ + c s⁵. The classic quintic of the Muon post is steep at zero and
# leaves singular values between about 0.7 and 1.2. Polar Express (arXiv:2505.16932): the best polynomial for each step.
CLASSIC = ((3.4445, -4.7750, 2.0315),) * 5
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# Polar Express diverges above 1, where rounding can put a singular value. These are its polynomials for a margin of
# 2 %; those for 1 % gave singular values up to 2.4 in bf16 (64 x 64, Gaussian), these at most 1.15.
MARGIN: dict[Steps, float] = {CLASSIC: 1.0, POLAR_EXPRESS: 1.02}


def orthogonalize(stack: Tensor, steps: Steps = CLASSIC, dtype: torch.dtype = torch.float32) -> Tensor:
    """For each matrix U S Vᵀ of `stack` (N, rows, cols) about U Vᵀ, in `dtype`; a zero matrix stays zero.

    Newton-Schulz iteration. bf16 is enough for an update (Muon post), but faster only on a device that multiplies it
    (nanochat/model/device.py): three times as fast as fp32 on a CPU with bf16 units, 26 times slower on one without.
    """
    tall = stack.size(1) > stack.size(2)
    x = stack.mT if tall else stack
    x = (x / (x.norm(dim=(1, 2), keepdim=True) * MARGIN[steps] + 1e-7)).to(dtype)
    for a, b, c in steps:
        gram = torch.bmm(x, x.mT)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x.mT if tall else x


def equal_rows(stack: Tensor) -> Tensor:
    """Every row of every matrix at norm 1, a zero row at 0: what nanochat (July 2026) puts before orthogonalisation.

    It calls it MuonEq. A few long rows would otherwise make up most of the spectrum that the iteration evens out.
    """
    return stack / (stack.norm(dim=-1, keepdim=True) + 1e-10)


def equal_norm(update: Tensor) -> Tensor:
    """Every matrix at the Frobenius norm sqrt(min(rows, cols)) of an exact U Vᵀ, which the iteration only nears.

    The normalisation after the orthogonalisation of Muon+ (arXiv:2602.21545), in the form of nanochat, July 2026.
    """
    exact = min(update.size(1), update.size(2)) ** 0.5
    return update * (exact / (update.norm(dim=(1, 2), keepdim=True) + 1e-10))


def normuon_scale(update: Tensor, variance: Tensor, beta: float) -> Tensor:
    """Divide each line of `update` (N, rows, cols) by its running root mean square, keeping each matrix's norm.

    NorMuon (arXiv:2510.05491). The lines are rows, or columns where there are more of those: orthogonality leaves their
    sizes free, the others have size 1 already. `variance` (N, rows, 1) or (N, 1, cols) is updated in place.
    """
    along = -1 if update.size(1) >= update.size(2) else -2
    variance.lerp_(update.square().mean(dim=along, keepdim=True), 1 - beta)
    scaled = update * (variance + 1e-10).rsqrt()
    return scaled * (update.norm(dim=(1, 2), keepdim=True) / (scaled.norm(dim=(1, 2), keepdim=True) + 1e-10))
