from __future__ import annotations

import importlib.util
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.engine.request import Tensor
from sls_deploy.errors import SlsError
from sls_deploy.package.triton_config import Served, check_config, render_config
from sls_deploy.package.triton_schema import ENUMS, MESSAGES, read_config

ENGINE = Served(
    name="small-b0-50",
    backend="tensorrt",
    source=Tensor("input", "FLOAT", (-1, 3, -1, -1)),
    target=Tensor("output", "FLOAT", (-1, 3, -1, -1)),
    least=(1, 3, 8, 8),
    usual=(2, 3, 16, 24),
    most=(4, 3, 64, 64),
)
TEXT = """name: "small-b0-50"
platform: "tensorrt_plan"
max_batch_size: 4
input {
  name: "input"
  data_type: TYPE_FP32
  dims: [3, -1, -1]
}
output {
  name: "output"
  data_type: TYPE_FP32
  dims: [3, -1, -1]
}
instance_group {
  count: 1
  kind: KIND_GPU
}
dynamic_batching {
  preferred_batch_size: [2]
  max_queue_delay_microseconds: 100
}
model_warmup {
  name: "zeros"
  batch_size: 2
  inputs {
    key: "input"
    value {
      data_type: TYPE_FP32
      dims: [3, 16, 24]
      zero_data: true
    }
  }
}
backend: "tensorrt"
"""


@pytest.fixture(scope="module")
def original() -> ModuleType:
    """Triton's own messages, as its client brings them; its package needs more than is here."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs tritonclient (extra 'dev')")
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a protobuf that is older than ours
        spec.loader.exec_module(module)
    return module


@st.composite
def models(draw: st.DrawFn) -> Served:
    """Models of any layout, type, batch and size."""
    in_bytes = draw(st.booleans())
    batch = draw(st.sampled_from([-1, 1, 4]))
    shape = (batch, -1, -1, 3) if in_bytes else (batch, 3, -1, -1)
    kind = "UINT8" if in_bytes else draw(st.sampled_from(["FLOAT", "HALF"]))

    def size(limit: int) -> int:
        return draw(st.integers(1, limit))

    most = [size(9) if batch == -1 else batch, *(size(4096) for _ in range(2))]
    usual = [size(most[0]) if batch == -1 else batch, *(size(side) for side in most[1:])]
    least = [size(usual[0]) if batch == -1 else batch, *(size(side) for side in usual[1:])]
    several = draw(st.booleans())
    laid_out = ((n, h, w, 3) if in_bytes else (n, 3, h, w) for n, h, w in (least, usual, most))
    least_shape, usual_shape, most_shape = laid_out
    return Served(
        name=draw(st.text("abz09-", min_size=1, max_size=8)),
        backend=draw(st.sampled_from(["tensorrt", "onnxruntime"])),
        source=Tensor("input", kind, shape),
        target=Tensor("output", kind, shape),
        least=least_shape,
        usual=usual_shape,
        most=most_shape,
        files={"8.0": "sm80-fp16.plan", "8.6": "sm86-fp16.plan"} if several else {},
    )


def test_a_configuration_says_what_the_engine_takes() -> None:
    assert render_config(ENGINE) == TEXT


def test_onnx_runtime_computes_fp32_on_a_gpu_and_does_not_time_every_size() -> None:
    served = replace(ENGINE, backend="onnxruntime")
    text = render_config(served)
    wanted = """optimization {
  execution_accelerators {
    gpu_execution_accelerator {
      name: "cuda"
      parameters {
        key: "use_tf32"
        value: "0"
      }
    }
  }
}
parameters {
  key: "cudnn_conv_algo_search"
  value {
    string_value: "1"
  }
}
"""
    assert wanted in text
    for old, new in (('value: "0"', 'value: "1"'), ('"cuda"', '"tensorrt"'), (wanted, "")):
        with pytest.raises(SlsError, match="as settings, not"):
            check_config(text.replace(old, new), served, "config.pbtxt")
    with pytest.raises(SlsError, match="as settings, not"):
        check_config(TEXT + wanted, ENGINE, "config.pbtxt")


@given(models())
def test_what_is_written_passes_the_check_and_never_asks_for_too_much(served: Served) -> None:
    text = render_config(served)
    check_config(text, served, "config.pbtxt")
    config = read_config(text, "config.pbtxt")
    assert config.max_batch_size <= served.most[0]
    dims = tuple(config.input[0].dims)
    assert (((-1,) if config.max_batch_size else ()) + dims) == served.source.shape
    assert (config.max_batch_size > 1) == config.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('name: "small-b0-50"', 'name: "other"', "as name, not small-b0-50"),
        ("tensorrt_plan", "onnxruntime_onnx", "as platform"),
        ('backend: "tensorrt"', 'backend: "onnxruntime"', "as backend"),
        ("max_batch_size: 4", "max_batch_size: 0", "as batching"),
        ("max_batch_size: 4", "max_batch_size: 5", "asks for batches above 4"),
        ("preferred_batch_size: [2]", "preferred_batch_size: [8]", "asks for batches above 4"),
        ('name: "input"', 'name: "picture"', "as input"),
        ("dims: [3, -1, -1]", "dims: [-1, -1, 3]", "as input"),
        ("data_type: TYPE_FP32", "data_type: TYPE_FP16", "as input"),
        ('name: "output"', 'name: "result"', "as output"),
        ("dims: [3, 16, 24]", "dims: [3, 16, 128]", r"warms up with input \[2, 3, 16, 128\]"),
        ("batch_size: 2\n", "batch_size: 5\n", "warms up"),
        ('key: "input"', 'key: "picture"', "warms up with picture"),
        ("instance_group", 'default_model_filename: "a"\ninstance_group', "as files"),
        ("KIND_GPU", "KIND_TPU", "no model configuration of Triton"),
        ("max_batch_size", "largest_batch", "no model configuration of Triton"),
    ],
)
def test_a_configuration_that_differs_from_the_engine_is_refused(
    old: str, new: str, told: str
) -> None:
    assert old in TEXT
    check_config(TEXT, ENGINE, "config.pbtxt")
    with pytest.raises(SlsError, match=told) as error:
        check_config(TEXT.replace(old, new, 1), ENGINE, "config.pbtxt")
    assert str(error.value).startswith("config.pbtxt: ")
    assert "\n" not in str(error.value)


def test_a_batch_that_starts_above_one_is_left_to_the_client() -> None:
    served = replace(ENGINE, least=(2, 3, 8, 8))
    config = read_config(render_config(served), "")
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 3, -1, -1])
    assert list(config.model_warmup[0].inputs["input"].dims) == [2, 3, 16, 24]


def test_a_type_that_no_picture_has_is_refused() -> None:
    with pytest.raises(SlsError, match="INT64"):
        render_config(replace(ENGINE, source=Tensor("input", "INT64", (-1, 3, -1, -1))))


def test_our_messages_are_those_of_triton(original: ModuleType) -> None:
    pool = original.DESCRIPTOR.pool
    for name, fields in MESSAGES.items():
        theirs = pool.FindMessageTypeByName(f"inference.{name}")
        ours = read_config("", "").DESCRIPTOR.file.pool.FindMessageTypeByName(f"inference.{name}")
        assert [field for field, _, _ in fields] == [field.name for field in ours.fields]
        for field in ours.fields:
            assert described(theirs.fields_by_name[field.name]) == described(field)
    for name, values in ENUMS.items():
        enum = pool.FindEnumTypeByName(f"inference.{name}")
        assert {value: enum.values_by_name[value].number for value in values} == values


def described(field: Any) -> tuple[Any, ...]:
    kind = field.message_type or field.enum_type
    return field.number, field.type, field.is_repeated, kind.full_name if kind else ""


@given(served=models())
def test_triton_itself_reads_the_same(original: ModuleType, served: Served) -> None:
    from google.protobuf import text_format  # type: ignore[import-untyped]

    text = render_config(served)
    theirs = text_format.Parse(text, original.ModelConfig())
    assert theirs.SerializeToString(deterministic=True) == read_config(text, "").SerializeToString(
        deterministic=True
    )
