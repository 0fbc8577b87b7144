import hashlib
from pathlib import Path

import onnx
import pytest
import torch

from queryopt.export.fold import fold
from queryopt.export.onnx import build_graph, model_card, with_card
from queryopt.train.checkpoint import save_best
from queryopt.train.config import TrainConfig
from queryopt.train.network import QueryOpt
from queryopt.train.network_config import NetworkConfig

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


_graphs: dict[bytes, onnx.ModelProto] = {}


def traced(network, explain=False):
    """build_graph of a network, traced once in a session: it takes seconds, and most tests export the same networks."""
    digest = hashlib.sha256(repr((network, network.config, explain)).encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    if digest.digest() not in _graphs:
        _graphs[digest.digest()] = build_graph(network, explain=explain)
    graph = onnx.ModelProto()
    graph.CopyFrom(_graphs[digest.digest()])
    return graph


@pytest.fixture(scope="session", autouse=True)
def exports_trace_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("queryopt.export.onnx.build_graph", traced)
        yield


@pytest.fixture(scope="session")
def trace():
    return traced


@pytest.fixture(scope="session")
def pictures():
    """Paths of the eight pictures that come with the tests."""
    return sorted((DATA / "pictures").glob("*/*.*"))


@pytest.fixture(scope="session")
def picture_folder():
    return DATA / "pictures"


def build_network(bits=12, seed=0, **options):
    """A tiny network in eval mode whose logits depend on the picture: BatchNorm saw some, and attention is sharp."""
    torch.manual_seed(seed)
    options = {"backbone": "tiny", "image_size": 32, "dim": 32, "heads": 4, "feedforward": 64, **options}
    network = QueryOpt(NetworkConfig(bits, **options))
    with torch.no_grad():
        if network.queries is not None:
            network.queries.mul_(4)
        network.train()(torch.randn(8, 3, options["image_size"], options["image_size"]))
    return network.eval()


@pytest.fixture(scope="session")
def make_network():
    return build_network


@pytest.fixture(scope="session")
def network():
    """12 bits, 8 branches. Not to be changed."""
    return build_network()


@pytest.fixture(scope="session")
def graph(network):
    """The exported graph of `network`, without a card. Not to be changed."""
    return traced(network)


@pytest.fixture(scope="session")
def model_path(network, graph, tmp_path_factory):
    """The model.onnx of `network`. Not to be changed."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(with_card(graph, model_card(network)))
    return path


@pytest.fixture(scope="session")
def perturbed_path(make_network, network, tmp_path_factory):
    """A model whose queries are not quite those of the network whose card it has. Not to be changed."""
    other = make_network()
    with torch.no_grad():
        other.queries.add_(0.3 * torch.randn(other.queries.shape, generator=torch.Generator().manual_seed(0)))
    path = tmp_path_factory.mktemp("perturbed") / "model.onnx"
    path.write_bytes(with_card(traced(other), model_card(network)))
    return path


@pytest.fixture(scope="session")
def full_network():
    """The network with ResNet-50 at 224 pixels, 12 bits, untrained, and what fold gives of it. Not to be changed."""
    torch.manual_seed(0)
    network = QueryOpt(NetworkConfig(12)).eval()
    return network, *fold(network)


@pytest.fixture(scope="session")
def full_model(full_network, tmp_path_factory):
    """The model.onnx of the folded network with ResNet-50. Not to be changed."""
    network, folded, _ = full_network
    path = tmp_path_factory.mktemp("full") / "model.onnx"
    path.write_bytes(with_card(build_graph(folded), model_card(network)))
    return path


@pytest.fixture(scope="session")
def unsure_network():
    """A network whose every bit is decided by rounding: two programs can't agree on its codes."""
    network = build_network()
    with torch.no_grad():
        # The outputs are ones with a breath of the picture in the last place, and the head sums them with both signs.
        network.decoder.final_norm.weight.fill_(1e-7)
        network.decoder.final_norm.bias.fill_(1.0)
        network.head.weight.copy_(torch.tensor([1.0, -1.0]).repeat(16)[None])
    return network


@pytest.fixture
def save_run(tmp_path):
    """Write a network as the run folder of qo-train: save_run(network, data="…") -> its path."""

    def save(network, name="run", **config):
        folder = tmp_path / name
        folder.mkdir()
        save_best(folder / "best.safetensors", network.state_dict(), TrainConfig(network.config, **config))
        return folder

    return save
