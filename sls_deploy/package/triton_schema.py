"""The part of Triton's model configuration that we write, as protobuf messages.

Names, numbers and types are those of `model_config.proto` in triton-inference-server/common; a test
compares them with the original. Text in that form is what Triton reads as config.pbtxt.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

from sls_deploy.errors import SlsError

PACKAGE = "inference"
"""Namespace of Triton's messages."""

ENUMS: dict[str, dict[str, int]] = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP16": 10, "TYPE_FP32": 11},
    "ModelInstanceGroup.Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
}
"""Enumerations, and the values of them that we write."""

Field = tuple[str, int, str]
"""Name, number and type of a field; '*' behind the type where it is repeated."""

MESSAGES: dict[str, tuple[Field, ...]] = {
    "ModelInput": (
        ("name", 1, "string"),
        ("data_type", 2, "DataType"),
        ("dims", 4, "int64*"),
    ),
    "ModelOutput": (
        ("name", 1, "string"),
        ("data_type", 2, "DataType"),
        ("dims", 3, "int64*"),
    ),
    "ModelInstanceGroup": (
        ("count", 2, "int32"),
        ("kind", 4, "ModelInstanceGroup.Kind"),
    ),
    "ModelDynamicBatching": (
        ("preferred_batch_size", 1, "int32*"),
        ("max_queue_delay_microseconds", 2, "uint64"),
    ),
    "ModelWarmup": (
        ("name", 1, "string"),
        ("batch_size", 2, "uint32"),
        ("inputs", 3, "ModelWarmup.InputsEntry*"),
    ),
    "ModelWarmup.Input": (
        ("data_type", 1, "DataType"),
        ("dims", 2, "int64*"),
        ("zero_data", 3, "bool"),
    ),
    "ModelWarmup.InputsEntry": (
        ("key", 1, "string"),
        ("value", 2, "ModelWarmup.Input"),
    ),
    "ModelConfig": (
        ("name", 1, "string"),
        ("platform", 2, "string"),
        ("max_batch_size", 4, "int32"),
        ("input", 5, "ModelInput*"),
        ("output", 6, "ModelOutput*"),
        ("instance_group", 7, "ModelInstanceGroup*"),
        ("default_model_filename", 8, "string"),
        ("cc_model_filenames", 9, "ModelConfig.CcModelFilenamesEntry*"),
        ("dynamic_batching", 11, "ModelDynamicBatching"),
        ("optimization", 12, "ModelOptimizationPolicy"),
        ("parameters", 14, "ModelConfig.ParametersEntry*"),
        ("model_warmup", 16, "ModelWarmup*"),
        ("backend", 17, "string"),
    ),
    "ModelConfig.CcModelFilenamesEntry": (
        ("key", 1, "string"),
        ("value", 2, "string"),
    ),
    "ModelConfig.ParametersEntry": (
        ("key", 1, "string"),
        ("value", 2, "ModelParameter"),
    ),
    "ModelParameter": (("string_value", 1, "string"),),
    "ModelOptimizationPolicy": (
        ("execution_accelerators", 4, "ModelOptimizationPolicy.ExecutionAccelerators"),
    ),
    "ModelOptimizationPolicy.ExecutionAccelerators": (
        (
            "gpu_execution_accelerator",
            1,
            "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator*",
        ),
    ),
    "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator": (
        ("name", 1, "string"),
        (
            "parameters",
            2,
            "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator.ParametersEntry*",
        ),
    ),
    "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator.ParametersEntry": (
        ("key", 1, "string"),
        ("value", 2, "string"),
    ),
}
"""Messages and their fields; 'A.B' lies within 'A', and what ends in 'Entry' is that of a map."""

_SCALARS = ("string", "int32", "uint32", "int64", "uint64", "bool")


def write_config(config: Any) -> str:
    """The text of a ModelConfig."""
    return str(text_format.MessageToString(config, use_short_repeated_primitives=True))


def read_config(text: str, where: str) -> Any:
    """The ModelConfig that a config.pbtxt holds.

    Raises:
        SlsError: it is not of Triton's form, or uses what we never write.
    """
    try:
        return text_format.Parse(text, model_config())
    except text_format.ParseError as error:
        told = " ".join(str(error).split())
        raise SlsError(f"is no model configuration of Triton ({told})", where) from None


def model_config(**fields: Any) -> Any:
    """A ModelConfig with these fields; what is a message may be given as a dict."""
    return _model_config()(**fields)


@cache
def _model_config() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    found = pool.FindMessageTypeByName(f"{PACKAGE}.ModelConfig")
    return message_factory.GetMessageClass(found)


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="model_config.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, Any] = {}
    for name in sorted(MESSAGES, key=lambda name: name.count(".")):
        outer, _, own = name.rpartition(".")
        message = made[outer].nested_type.add() if outer else file.message_type.add()
        message.name = own
        message.options.map_entry = own.endswith("Entry")
        for field in MESSAGES[name]:
            _add_field(message, *field)
        made[name] = message
    for name, values in ENUMS.items():
        outer, _, own = name.rpartition(".")
        enum = made[outer].enum_type.add(name=own) if outer else file.enum_type.add(name=own)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    return file


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    form = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=number)
    field.label = form.LABEL_REPEATED if kind.endswith("*") else form.LABEL_OPTIONAL
    kind = kind.removesuffix("*")
    if kind in _SCALARS:
        field.type = form.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type = form.TYPE_ENUM if kind in ENUMS else form.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
