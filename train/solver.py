"""The code solver: discrete cyclic coordinate descent on the loss, bit by bit, with the network's outputs fixed.

As in asymmetric deep supervised hashing (Jiang and Li 2018), whose alternating scheme the paper follows.
"""

import torch
from torch import Tensor

__all__ = ["solve_codes"]

_BLOCK = 16
"""Columns that meet the rest of B in one product: of 6 to 32, 16 and 24 took least time at 24,000 x 96 in float32."""


@torch.no_grad()
def solve_codes(
    codes: Tensor, outputs: Tensor, sample_index: Tensor, labels: Tensor, gamma: float, passes: int = 1
) -> Tensor:
    """The codes B that fit the outputs U best, column by column.

    codes: B as it is, float [n, M] (±1, or noise at the start). outputs: U, tanh outputs of the m sampled images,
    [m, M], finite. sample_index: their rows in codes, int64 [m]. labels: classes of all images, int64 [n], from 0.
    gamma: weight of the quantisation. passes: sweeps over the M columns. Returns new codes, ±1 [n, M], dtype and device
    of codes.

        Q = M S^T U + gamma U_expanded;    for each column c:  B_c = sign(Q_c - B_rest U_rest^T u_c)

    where S [m, n] is equality of classes, U_expanded has U in the sampled rows and zeros elsewhere, `rest` is all
    columns but c, and sign(0) is +1 (the code contract). S^T U is a row of class sums of U, so no [m, n] matrix is
    made, and U_rest^T u_c is a column of U^T U: a pass costs n M^2 and not, as in the order B_rest U_rest^T, n m M^2.
    What columns of other blocks add to a block's is one matrix product, taken when its turn comes: so nearly all of the
    n M^2 is done at the speed of a matrix product, and not at that of M passes over B.
    """
    images, columns = codes.shape
    outputs = outputs.to(codes)
    class_sums = codes.new_zeros(int(labels.max()) + 1 if images else 0, columns)
    class_sums.index_add_(0, labels[sample_index], outputs)
    fit = columns * class_sums[labels]  # Q, [n, M]
    fit.index_add_(0, sample_index, outputs, alpha=gamma)
    gram = outputs.T @ outputs  # [M, M]
    gram.fill_diagonal_(0)  # leaves the column itself out of B_rest
    # Columns are read and written one at a time: they lie together.
    solved = codes.T.contiguous()  # [M, n]
    fit = fit.T.contiguous()
    for _ in range(passes):
        for start in range(0, columns, _BLOCK):
            block = slice(start, start + _BLOCK)
            outside = gram[block].clone()  # [block, M]
            outside[:, block] = 0
            open_fit = torch.addmm(fit[block], outside, solved, alpha=-1)  # Q - B U^T u of the other blocks, [block, n]
            inside, within = gram[block, block], solved[block]  # a view: what is solved counts for the next column
            for column in range(len(within)):
                residual = open_fit[column] - inside[column] @ within  # [n]
                within[column] = residual >= 0
                within[column].mul_(2).sub_(1)
    return solved.T.contiguous()
