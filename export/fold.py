"""Exact rewrites of the inference network: the same logits for fewer multiply-adds and fewer passes over memory.

Each rewrite is one function of a FoldedNetwork: it replaces parts of it, in place, and says whether it did: one that
would cost more than it saves in this network leaves it alone. In exact arithmetic the logits are the same; `fold`
computes the new weights in float64, so what is left is the rounding of a float32 run in another order.

There is no tanh to drop: the network's logits are those before it. The division by |y| stays, so that logits mean the
same in every model. Not worth it, also by count: merging an attention's output projection with its values a head.
"""

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from queryopt.export.folded import (
    CentredPixels,
    ConstantQueryScores,
    FineLevel,
    FoldedNetwork,
    GatheredMemory,
    Head,
    KeyScores,
    NormalisedPixels,
    PhaseConvolutions,
    PlacedSelfAttention,
    PlainScores,
    PlainSelfAttention,
    PlainValues,
    SplitFineLevel,
)

if TYPE_CHECKING:
    from queryopt.train.network import QueryOpt

__all__ = ["REWRITES", "FoldReport", "FoldStep", "Rewrite", "fold", "folded_multiply_adds", "query_forms"]

Rewrite = Callable[[FoldedNetwork], bool]


@dataclass(frozen=True)
class FoldStep:
    """One rewrite: its name, whether it was done (not where it would save nothing), and multiply-adds that it saved."""

    name: str
    done: bool
    saved: int


@dataclass(frozen=True)
class FoldReport:
    """What folding did: multiply-adds of one picture before and after (torch's count), and each step in its order.

    norms_left: names of the BatchNorms that are still in it: no convolution before them could take them in.
    """

    before: int
    after: int
    steps: tuple[FoldStep, ...]
    norms_left: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fold(network: "QueryOpt", rewrites: Mapping[str, Rewrite] | None = None) -> tuple[FoldedNetwork, FoldReport]:
    """Fold a network for inference, in a float32 copy: `network` is left as it is.

    rewrites: which, by name and in this order (None: all of REWRITES). A rewrite may need those before it in REWRITES.
    """
    folded = FoldedNetwork(network).double()
    before = count = folded_multiply_adds(folded)
    steps = []
    for name, rewrite in (REWRITES if rewrites is None else rewrites).items():
        done = rewrite(folded)
        now = folded_multiply_adds(folded) if done else count
        steps.append(FoldStep(name, done, count - now))
        count = now
    left = tuple(name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d))
    return folded.float().requires_grad_(False), FoldReport(before, count, tuple(steps), left)


def query_forms(network: "QueryOpt", queries: Tensor) -> tuple[npt.NDArray[np.float64], ...]:
    """The rows that queries [n, dim] of this network are in a graph: as they are [n, dim], projected and scaled
    [h n, dim / h], and in the weights of the keys [h n, dim].
    """
    if network.decoder is None:
        return ()
    attention = copy.deepcopy(network.decoder.attention).double()
    queries = queries.detach().double()
    with torch.no_grad():
        projected = _project(queries, attention.query, attention.heads)  # [h, n, dim / h]
        forms = (queries, projected.flatten(0, 1), _into_keys(projected, attention.key.weight))
    return tuple(form.numpy() for form in forms)


def folded_multiply_adds(network: FoldedNetwork) -> int:
    """Multiply-adds of one picture as torch's FlopCounterMode / 2 counts them; nothing is computed for it."""
    with FlopCounterMode(display=False) as counter:
        _run_shapes(network)
    return int(counter.get_total_flops()) // 2


def fold_batch_norms(network: FoldedNetwork) -> bool:
    """BatchNorm's scale and shift into the convolution before it (transposed ones too); of timm's norms with an
    activation inside, that stays.

    A norm that follows no convolution (before the activation that is before one, or alone in a branch) is left.
    """
    place = {child: (module, name) for module in network.modules() for name, child in module.named_children()}
    pairs = _norms_after_convolutions(network)
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
        setattr(*place[conv], fused)
        setattr(*place[norm], getattr(norm, "act", nn.Identity()))
    return bool(pairs)


def scale_pixels(network: FoldedNetwork) -> bool:
    """Both divisions of the normalisation into the first convolution, or all that see the pixels.

    The mean can't follow them: at the border, a convolution pads with zeros, which have to mean the mean.
    """
    pixels = network.pixels
    assert isinstance(pixels, NormalisedPixels)
    layers = _readers(network, pixels)
    if not layers or not all(map(_is_convolution, layers)):
        return False
    for layer in layers:
        layer.weight.data /= 255 * pixels.std[:, None, None]
    network.pixels = CentredPixels(255 * pixels.mean)
    return True


def split_fine_level(network: FoldedNetwork) -> bool:
    """P (C x + up) = (P C) x + P up, of the lateral convolution C and the projection P: where maps are wider than dim.

    [g, g, c] maps cost c^2 + c dim at each place before, and 2 c dim after.
    """
    fine = network.tokens.fine
    if not isinstance(fine, FineLevel) or fine.project.out_channels >= fine.project.in_channels:
        return False
    project, lateral = _matrix(fine.project), _matrix(fine.lateral)
    direct = _conv1x1(project @ lateral, project @ _bias(fine.lateral) + _bias(fine.project))
    network.tokens.fine = SplitFineLevel(direct, _conv1x1(project))
    return True


def merge_upsampling(network: FoldedNetwork) -> bool:
    """The transposed convolution and the 1x1 convolution after it are one: where that has fewer multiply-adds.

    k^2 w^2 + s^2 w c at each place before (kernel k, stride s, width w, c outputs), and k^2 w c after: not in the wide
    ResNets, but where c < w k^2 / (k^2 - s^2).
    """
    up = network.tokens.up
    if up is None:
        return False
    at = next(i for i, module in enumerate(up) if isinstance(module, nn.ConvTranspose2d))
    deconv = cast(nn.ConvTranspose2d, up[at])
    after = next(i for i, module in enumerate(up) if i > at and isinstance(module, nn.Conv2d))
    last = cast(nn.Conv2d, up[after])
    kernel, stride = math.prod(deconv.kernel_size), math.prod(deconv.stride)
    width, out = deconv.out_channels, last.out_channels
    if kernel * width * out >= kernel * width * width + stride * width * out:
        return False
    same: Any = deconv.kernel_size, deconv.stride, deconv.padding
    with torch.device("meta"):
        merged = nn.ConvTranspose2d(deconv.in_channels, out, *same)
    merged.weight = nn.Parameter(torch.einsum("iwyx,ow->ioyx", deconv.weight, _matrix(last)))
    merged.bias = nn.Parameter(_matrix(last) @ _bias(deconv) + _bias(last))
    up[at], up[after] = merged, nn.Identity()
    return True


def convolve_phases(network: FoldedNetwork) -> bool:
    """The transposed convolution (kernel 4, stride 2, padding 1) as four 2x2 ones of as many multiply-adds.

    Place 2 i of the larger map meets rows i - 1 and i of the small one through the kernel's rows 3 and 1, place 2 i + 1
    rows i and i + 1 through its rows 2 and 0; columns likewise. Runtimes have better kernels for plain convolutions,
    in int8 often no others.
    """
    up = network.tokens.up
    if up is None:
        return False
    at = next(i for i, module in enumerate(up) if isinstance(module, nn.ConvTranspose2d))
    deconv = cast(nn.ConvTranspose2d, up[at])
    if (deconv.kernel_size, deconv.stride, deconv.padding) != ((4, 4), (2, 2), (1, 1)):
        return False
    rows = ([3, 1], [2, 0])
    weight = deconv.weight.transpose(0, 1)  # [out, in, 4, 4]
    phases = [weight[:, :, rows[y]][:, :, :, rows[x]] for y in (0, 1) for x in (0, 1)]
    up[at] = PhaseConvolutions(torch.stack(phases), _bias(deconv))
    return True


def place_encoder(network: FoldedNetwork) -> bool:
    """The encoder's positions and scale into constants, and its three projections into one product.

    W (x + p) = W x + W p, and W p is the same for every picture. The bias of the keys adds the same to all scores of a
    token, which softmax doesn't see; that of the values adds the same to what each token gathers, whose weights sum to
    1, so it goes through the output projection into its bias.
    """
    if network.encoder is None:
        return False
    plain = network.encoder.attention
    assert isinstance(plain, PlainSelfAttention)
    attention, positions = plain.attention, plain.positions
    scale = (positions.shape[1] // attention.heads) ** -0.5
    query, key = attention.query.weight * scale, attention.key.weight
    network.encoder.attention = PlacedSelfAttention(
        torch.cat([query, key, attention.value.weight]).T,
        positions @ query.T + attention.query.bias * scale,
        positions @ key.T,
        _without_value_bias(attention.output, attention.value),
        attention.heads,
    )
    return True


def project_queries(network: FoldedNetwork) -> bool:
    """The decoder's target is zero, so the queries' projection is the same for every picture; so are positions.

    The bias of the keys adds the same to all scores of a query: softmax doesn't see it.
    """
    if network.decoder is None:
        return False
    plain = network.decoder.scores
    assert isinstance(plain, PlainScores)
    network.decoder.scores = ConstantQueryScores(
        _project(plain.queries, plain.query, plain.heads), plain.key.weight.T, plain.positions @ plain.key.weight.T
    )
    return True


def drop_value_bias(network: FoldedNetwork) -> bool:
    """The decoder's value bias into that of its output projection: attention sums to 1."""
    if network.decoder is None:
        return False
    values = network.decoder.values
    assert isinstance(values, PlainValues)
    values.output = _without_value_bias(values.output, values.value)
    values.value = _linear(values.value.weight)
    return True


def queries_into_keys(network: FoldedNetwork) -> bool:
    """q . (W x) = (q W) . x: scores straight from the memory, where that has fewer multiply-adds.

    With h heads and n queries, a token costs dim^2 + n dim before, and h n dim after.
    """
    if network.decoder is None:
        return False
    scores = network.decoder.scores
    assert isinstance(scores, ConstantQueryScores)
    heads, count, width = scores.queries.shape
    if heads * count >= heads * width + count:
        return False
    network.decoder.scores = KeyScores(
        _into_keys(scores.queries, scores.weight.T).T, _into_keys(scores.queries, scores.bias.T).T, heads
    )
    return True


def gather_before_values(network: FoldedNetwork) -> bool:
    """a (W x) = W (a x): each query gathers memory and then makes a value of it, where that has fewer multiply-adds.

    With h heads, n queries and t tokens, t dim^2 + n t dim before, and h n t dim + n dim^2 after.
    """
    if network.decoder is None:
        return False
    values = network.decoder.values
    assert isinstance(values, PlainValues)
    heads, count, tokens = network.config.heads, network.config.bits, network.config.tokens
    dim = network.config.dim
    if heads * count * tokens + count * dim >= tokens * dim + count * tokens:
        return False
    weight = values.value.weight.reshape(heads, -1, dim).transpose(1, 2)  # [h, dim, dim / h]
    network.decoder.values = GatheredMemory(weight, values.output)
    return True


def divide_last(network: FoldedNetwork) -> bool:
    """w . (y / |y|) = (w . y) / |y|: one division a logit instead of one a number."""
    network.head = Head(network.head.weight, divide_last=True)
    return True


REWRITES: Mapping[str, Rewrite] = {
    "batch norms into convolutions": fold_batch_norms,
    "scale of the pixels into the first convolution": scale_pixels,
    "lateral convolution into the projection": split_fine_level,
    "upsampling and its last convolution into one": merge_upsampling,
    "upsampling as convolutions": convolve_phases,
    "encoder: positions and scale into constants": place_encoder,
    "decoder: queries and positions into constants": project_queries,
    "decoder: value bias into the output projection": drop_value_bias,
    "decoder: queries into the keys' weights": queries_into_keys,
    "decoder: gather memory before values": gather_before_values,
    "head: divide by the length last": divide_last,
}
"""All rewrites by name, in the order in which they are done."""


def _run_shapes(network: FoldedNetwork) -> None:
    """Run a network on the shapes of one picture and of its own weights: the meta device computes nothing."""
    shapes = {name: value.to("meta") for name, value in (*network.named_parameters(), *network.named_buffers())}
    size = network.config.image_size
    dtype = next(network.parameters()).dtype
    with torch.no_grad():
        functional_call(network, shapes, (torch.empty(1, size, size, 3, dtype=dtype, device="meta"),))


def _is_convolution(module: nn.Module) -> bool:
    """Whether a module's output is linear in its `weight`: timm has convolutions that standardise theirs."""
    return type(module) in (nn.Conv2d, nn.ConvTranspose2d) or type(module).__name__ == "Conv2dSame"


def _readers(network: FoldedNetwork, maker: nn.Module) -> list[Any]:
    """The modules without parts that are given what `maker` returned, as it was."""
    return [reader for made, reader in _data_flow(network) if made is maker]


def _norms_after_convolutions(network: FoldedNetwork) -> list[tuple[Any, nn.BatchNorm2d]]:
    """Convolutions and the BatchNorms that follow them, where each of the two runs once."""
    flow = _data_flow(network)
    makers, readers = (Counter(modules) for modules in zip(*flow, strict=True))
    return [
        (conv, norm)
        for conv, norm in flow
        if isinstance(norm, nn.BatchNorm2d)
        and norm.running_mean is not None
        and conv is not None
        and _is_convolution(conv)
        and makers[conv] == readers[norm] == 1
    ]


def _data_flow(network: FoldedNetwork) -> list[tuple[nn.Module | None, nn.Module]]:
    """Each run of a layer (a module without parts, or a norm with an activation inside), and the layer that made what
    it is given: None where none did, or where it was changed in place since.
    """
    made: dict[int, tuple[Tensor, int, nn.Module]] = {}  # by the tensor's id: it is kept, so that no other gets it
    flow: list[tuple[nn.Module | None, nn.Module]] = []

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensor, version, maker = made.get(id(inputs[0]) if inputs else 0, (None, 0, None))
        flow.append((maker if tensor is not None and tensor._version == version else None, module))

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = (output, output._version, module)

    with contextlib.ExitStack() as hooks:
        for module in network.modules():
            layer = isinstance(module, nn.BatchNorm2d) or not list(module.children())
            if layer and not isinstance(module, nn.Identity):
                hooks.enter_context(module.register_forward_pre_hook(before))
                hooks.enter_context(module.register_forward_hook(after))
        _run_shapes(network)
    return flow


def _matrix(conv: nn.Conv2d) -> Tensor:
    """The weights [out, in] of a 1x1 convolution."""
    return conv.weight.flatten(1)


def _bias(conv: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    return cast(Tensor, conv.bias)


def _conv1x1(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """A 1x1 convolution of weights [out, in]."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, device="meta")
    conv.weight = nn.Parameter(weight[:, :, None, None])
    if bias is not None:
        conv.bias = nn.Parameter(bias)
    return conv


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def _project(queries: Tensor, projection: nn.Linear, heads: int) -> Tensor:
    """Queries [n, dim] projected and scaled, [h, n, dim / h]."""
    projected: Tensor = projection(queries) * (queries.shape[1] // heads) ** -0.5  # [n, dim]
    return projected.reshape(len(queries), heads, -1).transpose(0, 1)


def _into_keys(queries: Tensor, rows: Tensor) -> Tensor:
    """Projected queries [h, n, dim / h] times each head's rows of a matrix [dim, m]: [h n, m]."""
    return torch.matmul(queries, rows.reshape(queries.shape[0], queries.shape[2], -1)).flatten(0, 1)


def _without_value_bias(output: nn.Linear, value: nn.Linear) -> nn.Linear:
    """The output projection with the bias of the values in its own."""
    return _linear(output.weight, output.bias + output.weight @ value.bias)
