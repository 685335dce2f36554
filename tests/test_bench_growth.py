"""How splatting grows: every way draws the same picture, slow ways end, other work is noticed, the chart is right."""

import importlib.util
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dreamforge import bench_growth, bench_gsplat, bench_plot, cli
from dreamforge.bench_growth import GSPLAT_TORCH, OURS, QUICK, REFERENCE, Plan, measure
from dreamforge.bench_plot import COLORS, Line, Panel, chart
from dreamforge.ops.splat import rasterization
from tests.tools import require_tool

pytestmark = pytest.mark.usefixtures("core")
CPU = torch.device("cpu")
TINY = Plan((20,), (16, 32), 40, 16, 0.0, 1)  # points (20, 16), (40, 16), (40, 32)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_growth, "_busy", lambda: 0.0)


def test_every_way_draws_the_same_and_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: None
) -> None:
    require_tool(importlib.util.find_spec("gsplat"), "gsplat is not installed")
    monkeypatch.setattr(bench_growth, "WHOLE", TINY)
    assert cli.main(["bench", "--growth", str(tmp_path / "new" / "out"), "--device", "cpu"]) == cli.DONE
    shown = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "new" / "out" / "growth.json").read_text("utf-8"))
    keys = [(point["way"], point["gaussians"], point["pixels"]) for point in found["points"]]
    assert keys == [(way, *sizes) for sizes in TINY.points() for way in (OURS, REFERENCE, GSPLAT_TORCH)]
    for point in found["points"]:
        assert point["forward_ms"] > 0 and point["backward_ms"] > 0 and point["tries"] == 1 and point["others"] == 0
        assert point["apart"] < 1e-4 and point["intersections"] >= point["gaussians"] // 2
    assert found["device"] and found["threads"] == torch.get_num_threads() and "load" in found
    assert "load before" in shown[0] and shown[1].startswith("20 Gaussians, ")
    with Image.open(tmp_path / "new" / "out" / "growth.png") as page:
        assert page.size == (2 * bench_plot.WIDTH, bench_plot.HEAD + bench_plot.LEGEND + 2 * bench_plot.HEIGHT)
    assert shown[-1].endswith("growth.png") and len(shown) == 1 + 9 + 2


def test_wrong_input_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_growth, "measure", lambda device: pytest.fail("it measured"))
    (tmp_path / "file").write_text("")
    for more in (["--prior"], ["--only", "mlp_forward"], ["steps=3"]):
        assert cli.main(["bench", "--growth", str(tmp_path / "out"), *more]) == cli.WRONG_INPUT
        assert "stands alone" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert cli.main(["bench", "--growth", str(tmp_path / "file")]) == cli.WRONG_INPUT
    assert "cannot make the folder" in capsys.readouterr().err


def test_what_takes_too_long_or_is_not_there_has_a_reason(monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    monkeypatch.setattr(bench_growth, "MOST", 60)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    points = {(point.way, point.gaussians): point for point in measure(CPU, replace(QUICK, sizes=()))}
    assert [points[OURS, count].missing for count in (30, 100)] == ["", ""]
    assert points[REFERENCE, 30].missing == "" and "more than 60" in points[REFERENCE, 100].missing
    assert "not installed" in points[GSPLAT_TORCH, 30].missing and points[GSPLAT_TORCH, 30].forward_ms is None
    assert "not measured: gsplat is asked for" in bench_growth.row(points[GSPLAT_TORCH, 30])
    found = bench_growth.facts(list(points.values()), CPU, None, replace(QUICK, sizes=()))
    assert bench_growth.picture(found | {"plan": found["plan"] | {"count": 30}})  # lines of one point, no load


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    def broken(*given: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(bench_growth, "_times", broken)
    with pytest.raises(RuntimeError, match="broken"):
        next(measure(CPU, TINY))


def times_of(others: Iterator[float]) -> Any:
    return lambda *given: {"forward_ms": 1.0, "backward_ms": 1.0, "others": next(others), "apart": 0.0}


def test_other_work_is_measured_against_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tries the quieter counts; when the seconds for repeats are used up the first one stays."""
    monkeypatch.setattr(bench_growth, "_times", times_of(iter([0.4, 0.9, 0.2, 0.6, 0.8])))
    one, two, three = list(measure(CPU, replace(TINY, sizes=(), counts=(20,))))
    assert [(point.others, point.tries) for point in (one, two, three)] == [(0.4, 1), (0.2, 2), (0.6, 2)]
    assert bench_growth.row(two).endswith("others used 0.2 processors at the second try")
    monkeypatch.setattr(bench_growth, "_times", times_of(iter([0.9, 0.9, 0.9])))
    monkeypatch.setattr(bench_growth, "AGAIN", 0.0)
    assert [point.tries for point in measure(CPU, replace(TINY, sizes=(), counts=(20,)))] == [1, 1, 1]


def test_what_others_use_is_all_but_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stat").write_text("cpu  100 20 30 9999 7777 4 5 6 50 0\ncpu0 1 1 1 1\n")
    assert bench_growth._busy(tmp_path / "stat") == pytest.approx(1.65 * 100 / bench_growth.os.sysconf("SC_CLK_TCK"))
    assert bench_growth._busy(tmp_path / "none") is None
    clock, seconds = iter([10.0, 17.0]), iter([0.0, 10.0])  # of the system, in which this process worked for 2
    monkeypatch.setattr(bench_growth, "_busy", lambda: next(clock))
    monkeypatch.setattr(bench_growth, "_timed", lambda call, *rest: (call(), 1.0))
    monkeypatch.setattr(bench_growth.time, "process_time", iter([1.0, 3.0]).__next__)
    monkeypatch.setattr(bench_growth.time, "perf_counter", lambda: next(seconds))
    given = bench_growth.scene(20, 16, CPU)
    ours = rasterization(**given)[0]
    found = bench_growth._times(lambda given: rasterization(**given)[0], given, ours, TINY)
    assert found == {"forward_ms": 1.0, "backward_ms": 1.0, "others": 0.5, "apart": 0.0}


def test_a_time_is_the_median_of_calls_after_the_first_within_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(bench_growth.time, "perf_counter", lambda: now[0])

    def timed(seconds: list[float], plan: Plan) -> tuple[float, int]:
        left = iter(seconds)

        def call() -> None:
            now[0] += next(left)

        return bench_growth._timed(call, CPU, plan)[1], len(seconds) - len(list(left))

    assert timed([0.9, 0.1, 0.3, 0.2, 9.0], Plan(seconds=1.5, calls=4)) == (200, 4)
    assert timed([0.9, 0.5, 0.3, 0.2], Plan(seconds=1.5, calls=13)) == (400, 3)
    assert timed([2.0, 1.0], Plan(seconds=1.5, calls=13)) == (2000, 1)


def test_more_pixels_show_the_same_scene_finer() -> None:
    coarse, fine = (rasterization(**bench_growth.scene(50, size, CPU))[2] for size in (256, 512))
    torch.testing.assert_close(2 * coarse["means2d"], fine["means2d"])
    torch.testing.assert_close(coarse["depths"], fine["depths"])
    assert fine["radii"].sum() > 1.4 * coarse["radii"].sum()
    assert Plan().points()[-1] == (100_000, 1024) and len(Plan().points()) == 7 + 4


def test_gsplats_picture_with_a_gradient_has_the_tiles_of_the_last() -> None:
    require_tool(importlib.util.find_spec("gsplat"), "gsplat is not installed")
    draw = bench_growth.ways(CPU)[GSPLAT_TORCH]
    for count in (10, 30):
        given = bench_growth.scene(count, 32, CPU)
        plain = draw(given)
        means = given["means"].clone().requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bench_gsplat, "tiles", lambda given: pytest.fail("tiles were made again"))
            again = draw(given | {"means": means})
        assert torch.equal(plain, again) and torch.autograd.grad(again.sum(), means)[0].any()


def test_the_picture_has_every_point_in_its_panels_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points come as they are measured: here 40 Gaussians at 32 pixels after those at 16 and 64."""
    drawn: list[Panel] = []
    monkeypatch.setattr(bench_growth, "chart", lambda title, panels, *rest: drawn.extend(panels))
    plan = Plan((20, 40), (16, 64), 40, 32)
    points = [
        bench_growth.Point(way, count, size, 2 * size, size / 2 + number, count / 2 + number)
        for count, size in ((20, 32), (40, 16), (40, 64), (40, 32))
        for number, way in enumerate((OURS, REFERENCE))
    ]
    missing = bench_growth.Point(GSPLAT_TORCH, 40, 16, 32, missing="no")
    bench_growth.picture(bench_growth.facts([*points, missing], CPU, 0.1, plan))
    assert [panel.title for panel in drawn] == [
        "forward, at 32x32 pixels", "forward, of 40 Gaussians", "backward, at 32x32 pixels", "backward, of 40 Gaussians"
    ]  # fmt: skip
    assert drawn[0].lines == [Line(OURS, [(20, 16), (40, 16)]), Line(REFERENCE, [(20, 17), (40, 17)])]
    assert drawn[1].lines[0] == Line(OURS, [(16, 8), (32, 16), (64, 32)])
    assert drawn[3].lines[1] == Line(REFERENCE, [(16, 21), (32, 21), (64, 21)])
    assert drawn[1].below == {16: "32", 32: "64", 64: "128"}


def test_points_of_a_chart_are_where_their_numbers_say() -> None:
    """The axis of y goes from 0.1 to 1000, so 1 is a quarter up; x = 100 is half way from 10 to 1000."""
    lines = [Line("one", [(10, 1.0), (100, 10.0), (1000, 100.0)]), Line("two", [(10, 0.2), (1000, 900.0)])]
    panels = [Panel("times", "things", lines, {10: "a", 100: "b", 1000: "c"})] * 3
    made = chart("title", panels, "ms", "letters")
    assert made == chart("title", panels, "ms", "letters")
    page = Image.open(io.BytesIO(made)).convert("RGB")
    head = bench_plot.HEAD + bench_plot.LEGEND
    assert page.size == (2 * bench_plot.WIDTH, head + 2 * bench_plot.HEIGHT)
    low, high = bench_plot.LEFT + 24, bench_plot.WIDTH - bench_plot.RIGHT - 24
    bottom, top = bench_plot.HEIGHT - bench_plot.BOTTOM, bench_plot.TOP
    for across, down in ((0, 0), (bench_plot.WIDTH, 0), (0, bench_plot.HEIGHT)):
        for share, up in ((0.0, 0.25), (0.5, 0.5), (1.0, 0.75)):
            place = across + low + share * (high - low), head + down + bottom + up * (top - bottom)
            assert page.getpixel(tuple(map(round, place))) == tuple(bytes.fromhex(COLORS[0][1:]))


def test_numbers_are_written_short() -> None:
    assert [bench_growth.short(number) for number in (34, 3443, 308_123, 3_081_230)] == [
        "34",
        "3.44 k",
        "308 k",
        "3.08 M",
    ]
