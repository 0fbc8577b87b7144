import pytest

from queryopt.train.synthetic import generate


@pytest.fixture(scope="session")
def birds(tmp_path_factory):
    """A small finished set: 6 classes, 3 + 2 pictures of 32 pixels. Not to be changed."""
    folder = tmp_path_factory.mktemp("birds")
    generate(folder, classes=6, train_per_class=3, test_per_class=2, size=32, seed=1)
    return folder
