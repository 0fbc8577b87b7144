"""The peers of the search on a GPU. Without one: PyTorch's product on the CPU, and what the others say."""

import numpy as np
import pytest

from queryopt.bench.speed.gpu import peers
from queryopt.bench.speed.gpu.peers import GPU_PEERS, TorchCuda, check_gpu_peers, open_gpu_peer
from queryopt.bench.speed.search.check import judge, plain_search
from queryopt.bench.speed.search.contender import Task, UnavailableError
from queryopt.bench.speed.search.data import DataSpec, make_data
from queryopt.errors import UsageError

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("task", [Task(7), Task(700), Task(None, 4), Task(None, 64)])
@pytest.mark.parametrize("bits", [1, 12, 33, 64])
def test_products_are_exact(bits: int, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchCuda, "device", "cpu")
    monkeypatch.setattr(peers, "_CHUNK", 250)
    monkeypatch.setattr(peers, "_PRODUCTS", 900)
    data = make_data(DataSpec("clustered", bits, 600, queries=5, classes=10))
    contender = open_gpu_peer("torch", data.codes, bits)
    contender.task = task
    answers = dict(enumerate(contender.hits(contender.ask(contender.prepare(data.queries)))))
    right = {row: plain_search(data.codes, query, task) for row, query in enumerate(data.queries)}
    verdict = judge(answers, right, data.codes, data.queries)
    assert (verdict.checked, verdict.recall, verdict.exact) == (5, 1, True)
    contender.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["torch", "faiss"])
def test_without_a_gpu_they_say_so(name: str) -> None:
    with pytest.raises(UnavailableError, match=r"sees no GPU|is one for the CPU"):
        open_gpu_peer(name, np.zeros((9, 1), np.uint8), 8)


def test_one_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.FaissGpu, "package", "faiss_that_is_not_there")
    with pytest.raises(UnavailableError, match="faiss_that_is_not_there is not installed"):
        open_gpu_peer("faiss", np.zeros((9, 1), np.uint8), 8)


def test_an_unknown_one() -> None:
    check_gpu_peers(GPU_PEERS)
    with pytest.raises(UsageError, match=r"'torhc': there are torch, faiss, cpu; did you mean torch\?"):
        check_gpu_peers(("torhc",))
