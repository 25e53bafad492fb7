from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sls_deploy.calibration.psnr_loss import PsnrLoss
from sls_deploy.config import ExportConfig
from sls_deploy.data.bicubic import downscale
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.int8 import Int8Choice, choose_int8
from sls_deploy.export.passes.half import Half
from sls_deploy.progress import Progress
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.runner import Pictures
from tests.export.exported_graphs import exported


def pictures() -> list[Pictures]:
    photos = list(sample_photos().values())[:4]
    small = [downscale(photo[:128, :128], 4).transpose(2, 0, 1) for photo in photos]
    whole = np.stack(small).astype(np.float32) / np.float32(255)
    return [whole[:2], whole[2:]]


@pytest.fixture(scope="module")
def graph() -> ir.Model:
    """Two residual blocks between an entry and an exit: six convolutions."""
    return exported("residual")


@pytest.fixture(scope="module")
def truths(graph: ir.Model) -> list[Pictures]:
    """What the network gives, and some noise: what it is trained for is not known."""
    runner, rng = OnnxRunner(to_bytes(graph)), np.random.default_rng(0)
    outputs = [runner.run(batch) for batch in pictures()]
    return [np.clip(item + 0.005 * rng.standard_normal(item.shape), 0, 1) for item in outputs]


def choose(graph: ir.Model, truths: list[Pictures], **options: object) -> Int8Choice:
    settings = ExportConfig.model_validate({"int8_loss_db": 100.0, **options})
    return choose_int8(graph, pictures(), truths, settings)


@pytest.fixture(scope="module")
def chosen(graph: ir.Model, truths: list[Pictures]) -> Int8Choice:
    """What is chosen where no loss is too much, which several tests look at."""
    return choose(graph, truths)


def quantized(choice: Int8Choice) -> set[str]:
    return {layer.name for layer in choice.layers if layer.quantized}


def test_all_but_the_ends_are_quantised(chosen: Int8Choice) -> None:
    assert {layer.name: layer.reason for layer in chosen.layers if layer.reason} == {
        "entry": "first layer",
        "exit": "last layer",
    }
    assert len(chosen.weights) == len(quantized(chosen)) == 4
    assert chosen.loss_db == chosen.loss_all_db


def test_ends_and_names_are_settings(graph: ir.Model, truths: list[Pictures]) -> None:
    found = quantized(choose(graph, truths, int8_ends=True, int8_keep=("body.1.*",)))
    assert {"entry", "exit"} <= found
    assert not any(name.startswith("body.1.") for name in found)


@pytest.mark.parametrize("method", ["min-max", "percentile", "entropy", "mse"])
def test_the_loss_is_that_of_the_graph(
    graph: ir.Model, truths: list[Pictures], method: str
) -> None:
    choice = choose(graph, truths, int8_ranges=method)
    half = Half("fp16")(graph.clone()).model
    written = OnnxRunner(to_bytes(choice.pass_()(half).model))
    loss = PsnrLoss(OnnxRunner(to_bytes(graph)), pictures()[1::2], truths[1::2])
    assert loss.measured(written) == pytest.approx(choice.loss_db, abs=1e-6)
    assert 0 < choice.loss_db < 3


def test_what_fp16_keeps_is_in_the_loss(
    graph: ir.Model, truths: list[Pictures], chosen: Int8Choice
) -> None:
    names = [node.name or "" for node in graph.graph if node.op_type == "Conv"]
    settings = ExportConfig(int8_loss_db=100.0)
    choice = choose_int8(graph, pictures(), truths, settings, half_keep=names)
    kept = choice.pass_()(Half("fp16", names)(graph.clone()).model).model
    loss = PsnrLoss(OnnxRunner(to_bytes(graph)), pictures()[1::2], truths[1::2])
    assert loss.measured(OnnxRunner(to_bytes(kept))) == pytest.approx(choice.loss_db, abs=1e-6)
    assert choice.loss_db != chosen.loss_db


def test_ranges_and_losses_come_from_different_pictures(
    graph: ir.Model, truths: list[Pictures], chosen: Int8Choice
) -> None:
    first, second = pictures()
    other = choose_int8(graph, [first, second / 2], truths, ExportConfig(int8_loss_db=100.0))
    assert other.reads == chosen.reads
    assert other.loss_db != chosen.loss_db
    moved = choose_int8(graph, [first / 2, second], truths, ExportConfig(int8_loss_db=100.0))
    assert moved.reads != chosen.reads


def test_the_last_layer_left_is_measured_as_the_others_are(
    graph: ir.Model, truths: list[Pictures], chosen: Int8Choice
) -> None:
    names = sorted(quantized(chosen))
    choice = choose(graph, truths, int8_keep=tuple(names[1:]))
    assert quantized(choice) == {names[0]}
    half = Half("fp16")(graph.clone()).model
    written = OnnxRunner(to_bytes(choice.pass_()(half).model))
    loss = PsnrLoss(OnnxRunner(to_bytes(graph)), pictures()[1::2], truths[1::2])
    assert loss.measured(written) == pytest.approx(choice.loss_db, abs=1e-6)


def test_refuses_a_graph_without_a_layer_in_int8(graph: ir.Model, truths: list[Pictures]) -> None:
    runner = OnnxRunner(to_bytes(graph))
    exact = [runner.run(batch) for batch in pictures()]
    with pytest.raises(SlsError, match=r"int8: would hold no layer: .*`--int8-loss-db`"):
        choose(graph, exact, int8_loss_db=1e-9)
    with pytest.raises(SlsError, match=r"int8: has no layer to take.*--int8-ends"):
        choose(graph, truths, int8_keep=("*",))


def test_refuses_too_few_pictures(graph: ir.Model, truths: list[Pictures]) -> None:
    with pytest.raises(SlsError, match=r"calibration_crops"):
        choose_int8(graph, pictures()[:1], truths[:1], ExportConfig())


def test_the_worst_layers_stay_until_the_limit_holds(
    graph: ir.Model, truths: list[Pictures], chosen: Int8Choice
) -> None:
    limit = chosen.loss_all_db / 2
    choice = choose(graph, truths, int8_loss_db=limit)
    alone = {layer.name: layer.loss_db for layer in choice.layers if layer.loss_db is not None}
    kept = alone.keys() - quantized(choice)
    assert choice.loss_db <= limit < choice.loss_all_db == chosen.loss_all_db
    assert len(alone) == 4
    assert kept
    assert min(alone[name] for name in kept) >= max(alone[name] for name in quantized(choice))
    reasons = [layer.reason for layer in choice.layers if layer.name in kept]
    assert all("alone loses" in reason for reason in reasons)


def test_ranges_and_what_they_clip_are_told(graph: ir.Model, truths: list[Pictures]) -> None:
    narrow, wide = (choose(graph, truths, int8_ranges=method) for method in ("mse", "min-max"))
    for less, more in zip(narrow.layers, wide.layers, strict=True):
        if not less.quantized:
            assert less.input_range is None
            continue
        assert less.input_range is not None
        assert more.input_range is not None
        assert 0 < less.input_range <= more.input_range
        assert less.input_clipped is not None
        assert 0 <= less.input_clipped < 0.01
        assert more.input_clipped == 0


@pytest.mark.parametrize("ends", [False, True])
def test_an_add_behind_int8_reads_int8_where_all_that_read_it_do(
    graph: ir.Model, truths: list[Pictures], ends: bool
) -> None:
    made = choose(graph, truths, int8_ends=ends).pass_()(graph.clone()).model.graph
    for name in ("body.0.Add", "body.1.Add"):
        add = made.node(name)
        sides = {value.producer().op_type for value in add.inputs}  # type: ignore[union-attr]
        readers = {user.op_type for user in add.outputs[0].consumers()}
        assert "Conv" in sides
        # Behind the second one is the last layer.
        assert ("DequantizeLinear" in sides) is ends
        assert (readers == {"QuantizeLinear"}) is ends


def test_fp16_graphs_take_the_choice(graph: ir.Model, chosen: Int8Choice) -> None:
    half = Half("fp16")(graph.clone()).model
    proto = ir.to_proto(chosen.pass_()(half).model)
    onnx.checker.check_model(proto, full_check=True)
    integers = {item.name for item in proto.graph.initializer if item.data_type == 3 and item.dims}
    assert integers == {weight.weight for weight in chosen.weights}


def test_the_graph_that_is_decided_on_is_left_alone(
    graph: ir.Model, truths: list[Pictures]
) -> None:
    before = to_bytes(graph)
    choose(graph, truths)
    assert to_bytes(graph) == before


def test_every_measurement_is_reported(
    graph: ir.Model, truths: list[Pictures], chosen: Int8Choice
) -> None:
    reports: list[Progress] = []
    options = ExportConfig(int8_loss_db=chosen.loss_all_db / 2)
    choose_int8(graph, pictures(), truths, options, reports.append)
    assert len(reports) >= 6
    assert {report.task for report in reports} == {"losses of int8"}


@pytest.mark.parametrize("name", ["transposed", "grouped", "shared", "squeeze_linear", "dense"])
def test_other_layers_lose_little(name: str) -> None:
    graph = exported(name)
    floats = OnnxRunner(to_bytes(graph))
    outputs = [floats.run(batch) for batch in pictures()]
    settings = ExportConfig(int8_loss_db=1e9, int8_ends=True)
    choice = choose_int8(graph, pictures(), outputs, settings)
    assert all(layer.quantized for layer in choice.layers)
    expected = outputs[0]
    found = OnnxRunner(to_bytes(choice.pass_()(graph.clone()).model)).run(pictures()[0])
    noise = np.square(found - expected).mean() / expected.var()
    assert -10 * np.log10(noise) > 25
