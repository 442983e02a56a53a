import pytest
from bright_data import make_loader

from reslab.tasks.classify import Classify


@pytest.fixture
def loaders():
    return make_loader(), make_loader(training=False, augment="none", seed=4)


@pytest.fixture
def task():
    return Classify(3)
