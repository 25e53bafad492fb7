# Mends the types of TensorRT 10.13 (tensorrt-stubs), which mypy cannot read as they are published
# and which differ from what the library does. For tensorrt_bindings/tensorrt.pyi.

# Ends of lines.
s/\r$//

# No Python: parameters called 'in', and one without the default that all before it have.
s/\bin: list\[/inputs: list[/
s/channel_axis: int) -> IScaleLayer/channel_axis: int = 0) -> IScaleLayer/

# A variable of this name hides the type that most methods return.
s/^bool: .*$//

# The library returns None where it fails, as its documentation says.
s/^\(    def \(build_serialized_network\|create_timing_cache\|get_timing_cache\|create_execution_context\|deserialize_cuda_engine\)(.*) -> \w*\):$/\1 | None:/

# The library takes any sequence of sizes for Dims, and what it returns behaves like a tuple.
s/^class Dims:$/Dims: typing.TypeAlias = typing.Sequence[int]\nclass _Dims:/
s/^class \(Dims[234]\)(Dims):$/class \1(_Dims):/
