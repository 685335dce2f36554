"""What all tests share. One thread: small tensors gain nothing from more, and on a busy machine threads wait."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--core", help="the compiled core to test, in place of the installed one")
    parser.addoption("--host-kernels", help="the CUDA kernels built for the host, to test in place of a fresh build")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--core"):
        from dreamforge.ops import native

        native.LIBRARY = Path(config.getoption("--core"))


@pytest.fixture
def core() -> None:
    """The compiled core is there, or the test is skipped; in CI it must be."""
    from dreamforge.ops import native
    from tests.tools import require_tool

    found = native.loaded()
    require_tool(not isinstance(found, str), str(found))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is in the local cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def no_network(empty_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no token; a connection or an opened pickle fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny pipeline of every family, by its name; a test that changes files takes a copy."""
    from tests.tiny_pipelines import FAMILIES

    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in FAMILIES.items()}
