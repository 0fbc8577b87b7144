"""The code solver, against the literal formula, in the order of multiplication of the published code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from queryopt.train.loss import hashing_loss
from queryopt.train.solver import solve_codes


def solve_codes_literal(
    codes: Tensor, outputs: Tensor, sample_index: Tensor, labels: Tensor, gamma: float, passes: int = 1
) -> Tensor:
    """Discrete cyclic coordinate descent as it is written: dense S, (B_rest U_rest^T) u_c, sign(0) = +1."""
    codes = codes.clone()
    columns = codes.shape[1]
    similar = (labels[sample_index].unsqueeze(1) == labels.unsqueeze(0)).to(codes)  # [m, n]
    expanded = torch.zeros_like(codes)
    for row, image in enumerate(sample_index.tolist()):
        expanded[image] += outputs[row]
    q = (columns * similar).T @ outputs + gamma * expanded
    for _ in range(passes):
        for c in range(columns):
            rest = [i for i in range(columns) if i != c]
            value = q[:, c] - (codes[:, rest] @ outputs[:, rest].T) @ outputs[:, c]
            codes[:, c] = torch.where(value >= 0, 1.0, -1.0).to(codes)
    return codes


def problem(
    images: int, columns: int, samples: int, classes: int, seed: int, *, integers: bool = False, noise: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes, outputs, rows of the samples, labels; all float64. integers: values that make exact ties."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    index = torch.randperm(images, generator=generator)[:samples]
    codes = torch.randn(images, columns, generator=generator, dtype=torch.float64)
    outputs = torch.randn(samples, columns, generator=generator, dtype=torch.float64).tanh()
    if integers:
        outputs = torch.randint(-1, 2, (samples, columns), generator=generator).double()
    if integers or not noise:
        codes = torch.where(codes >= 0, 1.0, -1.0).double()
    return codes, outputs, index, labels


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize(
    ("images", "columns", "samples", "classes"), [(300, 12, 120, 20), (200, 96, 90, 30), (40, 1, 40, 3)]
)
def test_codes_are_those_of_the_literal_formula(
    images: int, columns: int, samples: int, classes: int, noise: bool, passes: int
) -> None:
    codes, outputs, index, labels = problem(images, columns, samples, classes, 1, noise=noise)
    solved = solve_codes(codes, outputs, index, labels, 200.0, passes)
    assert torch.equal(solved, solve_codes_literal(codes, outputs, index, labels, 200.0, passes))


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), gamma=st.sampled_from([0, 1, 2, 200]), columns=st.integers(1, 9))
def test_ties_become_plus_one(seed: int, gamma: int, columns: int) -> None:
    """Integers have exact sums, so zeros are zeros in both orders of multiplication."""
    codes, outputs, index, labels = problem(30, columns, 7, 9, seed, integers=True)
    solved = solve_codes(codes, outputs, index, labels, gamma)
    assert torch.equal(solved, solve_codes_literal(codes, outputs, index, labels, gamma))


def test_where_nothing_is_known_a_bit_is_plus_one() -> None:
    codes, _, index, labels = problem(10, 4, 5, 3, 0)
    assert bool((solve_codes(codes, torch.zeros(5, 4), index, labels, 200.0) == 1).all())


def test_a_pass_lowers_the_objective_that_the_loss_measures() -> None:
    codes, outputs, index, labels = problem(200, 12, 80, 10, 3, noise=False)

    def objective(b: Tensor) -> float:
        return float(hashing_loss(outputs, b, labels[index], labels, index, 5.0).total)

    once = solve_codes(codes, outputs, index, labels, 5.0)
    twice = solve_codes(once, outputs, index, labels, 5.0)
    assert objective(twice) <= objective(once) < objective(codes)


def test_images_that_were_not_drawn_get_the_code_of_their_class() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    index = torch.tensor([0, 2, 4])
    outputs = torch.tensor([[0.9, 0.9, 0.9, 0.9], [0.9, 0.9, -0.9, -0.9], [0.9, -0.9, 0.9, -0.9]])
    solved = solve_codes(torch.ones(6, 4), outputs, index, labels, 1.0, passes=2)
    assert torch.equal(solved, outputs.sign().repeat_interleave(2, dim=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_is_new_and_of_the_codes_dtype(dtype: torch.dtype) -> None:
    codes, outputs, index, labels = problem(50, 8, 20, 5, 0)
    codes = codes.to(dtype)
    before = codes.clone()
    solved = solve_codes(codes, outputs.float(), index, labels, 200.0)
    assert solved.dtype == dtype
    assert torch.equal(codes, before)
    assert set(solved.unique().tolist()) <= {-1.0, 1.0}
    assert solved.is_contiguous()


def test_gradients_are_not_kept() -> None:
    codes, outputs, index, labels = problem(20, 4, 10, 3, 0)
    assert not solve_codes(codes, outputs.requires_grad_(), index, labels, 200.0).requires_grad
