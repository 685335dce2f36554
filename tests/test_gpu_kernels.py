"""The GPU command of the kernels, rehearsed on a CPU where nothing is installed but torch."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dreamforge.ops import hashgrid
from tests.gpu import kernels
from tests.test_gpu_priors import bare, torch_alone

pytestmark = pytest.mark.usefixtures("core")


def test_it_needs_torch_alone_and_writes_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bare(tmp_path / "site", torch_alone(), "--device", "cpu", "--out", str(out), module="tests.gpu.kernels")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all is right"
    found = json.loads((out / "kernels.json").read_text("utf-8"))
    assert [case["case"] for case in found["cases"]] == list(kernels.CASES) and not found["wrong"]
    assert {"ours", "torch"} <= set(found["ms"]) and all("missing" in one for one in found["libraries"])
    golden = load_file(out / "golden.safetensors")
    assert golden["hashgrid/out0"].shape == (300, 8) and golden["hashgrid/grad.table"].any()
    assert (out / "golden.safetensors").stat().st_size < 2**20


def test_a_wrong_kernel_and_no_gpu_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = hashgrid.encode_native
    monkeypatch.setattr(hashgrid, "encode_native", lambda *given: 1.001 * right(*given))
    monkeypatch.setattr(kernels, "speed", lambda device: {"ours": 1.0, "tiny-cuda-nn, torch, nerfacc": 0.5})
    assert kernels.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    said = json.loads((tmp_path / "kernels.json").read_text("utf-8"))["wrong"]
    assert said == ["hashgrid", "hashgrid-4", "hashgrid-8", "hashgrid-half", "slower than another library"]
    assert kernels.main(["--device", "cpu", "--cases-only"]) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    capsys.readouterr()
    assert kernels.main([]) == 2 and "no CUDA device" in capsys.readouterr().err
