"""Files from outside: refused in one line before any runtime sees them, whatever is in them."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnx
from onnx import TensorProto, helper, numpy_helper
from quicknet.core.card import Card, ModelRecord, PreprocessSpec
from quicknet.core.errors import FormatError
from quicknet.deploy.onnx import assemble
from quicknet.inference.artifact import load
from quicknet.onnx.file import CARD_KEY, looks_like_onnx, parse_onnx, read_onnx

CLASSES = ("cat", "dog")


def small_graph(classes: int = 2, size: int = 4) -> onnx.GraphProto:
    """Average and linear: the smallest classifier."""
    weight = np.arange(3 * classes, dtype=np.float32).reshape(classes, 3)
    nodes = [
        helper.make_node("Transpose", ["images"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["f"], ["a"]),
        helper.make_node("Flatten", ["a"], ["v"]),
        helper.make_node("Gemm", ["v", "w"], ["logits"], transB=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
    return helper.make_graph(nodes, "small", [images], [logits], [numpy_helper.from_array(weight, "w")])


def small_card(classes: tuple[str, ...] = CLASSES) -> Card:
    record = ModelRecord(family="quicknet", name="small", config={})
    return Card(model=record, classes=classes, preprocess=PreprocessSpec(size=4))


def small_file() -> bytes:
    return assemble(small_graph().SerializeToString(deterministic=True), small_card())


BLOB = small_file()
HERE = Path("m.onnx")


def refused(model: onnx.ModelProto | bytes, text: str) -> None:
    with pytest.raises(FormatError, match=text) as actual:
        parse_onnx(model if isinstance(model, bytes) else model.SerializeToString(), HERE)
    assert "\n" not in str(actual.value)
    assert "m.onnx" in str(actual.value)


@pytest.fixture
def model() -> onnx.ModelProto:
    return onnx.load_from_string(BLOB)


def test_what_export_wrote_is_read() -> None:
    file = parse_onnx(BLOB, HERE)
    assert file.intact
    assert file.card.replace(weights_sha256="") == small_card()


def test_the_walk_sees_what_onnx_sees(model: onnx.ModelProto) -> None:
    """Our field numbers are those of onnx.proto: every part that we refuse has its name there."""
    numbers = {name: field.number for name, field in model.DESCRIPTOR.fields_by_name.items()}
    assert {numbers[name] for name in ("ir_version", "graph", "opset_import", "metadata_props")} == {1, 7, 8, 14}
    tensor = {name: field.number for name, field in TensorProto.DESCRIPTOR.fields_by_name.items()}
    assert {tensor[name] for name in ("external_data", "data_location")} == {13, 14}
    assert tensor["raw_data"] == 9


# --- hostile ------------------------------------------------------------------------------


def test_external_data_is_refused_wherever_it_stands(model: onnx.ModelProto, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(24))
    tensor = copy.deepcopy(model.graph.initializer[0])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret))
    within = copy.deepcopy(model)
    within.graph.node.append(helper.make_node("Identity", ["a"], ["b"], value=tensor))
    refused(within, "external data")
    model.graph.initializer[0].CopyFrom(tensor)
    refused(model, "external data")


def plant_custom_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "evil.ops"


def plant_custom_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("evil.ops", 1))


def plant_new_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def plant_no_opset(model: onnx.ModelProto) -> None:
    model.ClearField("opset_import")


def plant_loop(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", ["a"], ["b"], body=small_graph()))


def plant_subgraph(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["a"], ["b"], body=small_graph()))


def plant_function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("d", "f", ["x"], ["y"], [], [helper.make_opsetid("", 17)]))


def plant_training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def plant_padding(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("MaxPool", ["f"], ["p"], kernel_shape=[1, 1], pads=[9_000_000] * 4))


def plant_group(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Conv", ["f", "w"], ["p"], group=1 << 40))


def plant_lying_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 20


def plant_product_overflow(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1 << 24] * 8


def plant_negative_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-2, -3]


def plant_strings(model: onnx.ModelProto) -> None:
    strings: Any = [b"x"]  # numbers only, by its annotation
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], strings))


def plant_sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def plant_no_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


def plant_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 77


def plant_twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key=CARD_KEY, value="{}")


def plant_nodes(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    model.graph.node.extend([node] * 10_001)


def plant_window(model: onnx.ModelProto) -> None:
    """A response normalization adds as many channels around a map as its window has."""
    model.graph.node.append(helper.make_node("LRN", ["logits"], ["normed"], size=65))


def plant_attributes(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.extend([onnx.AttributeProto()] * 1_000_001)


PLANTS = {
    plant_attributes: "over 1,000,000 parts",
    plant_custom_domain: "operators of 'evil.ops', which are not loaded",
    plant_custom_opset: "unknown operator set evil.ops 1",
    plant_new_opset: "unknown operator set ai.onnx 99",
    plant_no_opset: "unknown operator set none",
    plant_loop: "operator 'Loop'",
    plant_subgraph: "attribute",
    plant_function: "field 25",
    plant_training: "field 20",
    plant_padding: "attribute over",
    plant_group: "far too large",
    plant_window: "far too large",
    plant_lying_shape: "as many bytes as its shape",
    plant_product_overflow: "as many bytes as its shape",
    plant_negative_shape: "type or shape",
    plant_strings: "in a form",
    plant_sparse: "field 15",
    plant_no_graph: "not hold a graph",
    plant_ir: "IR version 77",
    plant_twice: "twice",
    plant_nodes: "nodes",
}


@pytest.mark.parametrize(("plant", "text"), PLANTS.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_hostile_graphs_are_refused_by_what_is_wrong(plant, text: str, model: onnx.ModelProto) -> None:
    plant(model)
    refused(model, text)


def test_a_packed_list_is_bounded_before_it_is_read() -> None:
    """The onnx package writes lists unpacked; protobuf allows both."""

    def part(number: int, body: bytes) -> bytes:
        return (
            bytes([number << 3 | 2])
            + bytes([len(body) % 128 | 128, len(body) // 128 % 128 | 128, len(body) >> 14])
            + body
        )

    for count, text in ((100, "not carry a QuickNet card"), (1025, "far too long")):
        graph = part(1, part(4, b"Relu") + part(5, part(8, b"\x01" * count)))
        refused(b"\x08\x08" + part(7, graph) + part(8, b"\x10\x11"), text)


def test_a_foreign_file_has_no_card(model: onnx.ModelProto) -> None:
    model.ClearField("metadata_props")
    refused(model, "does not carry a QuickNet card.*quicknet export")


@pytest.mark.parametrize(
    ("card", "text"),
    [
        ("{", "not JSON"),
        ("[" * 200_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('{"format": 9}', "format 9 is newer"),
        ("{}", "is not valid"),
    ],
)
def test_a_card_that_is_none(card: str, text: str, model: onnx.ModelProto) -> None:
    model.metadata_props[0].value = card
    refused(model, text)


def test_class_count_and_image_size_must_be_the_cards() -> None:
    refused(assemble(small_graph().SerializeToString(), small_card(("a", "b", "c"))), "its card names 3 classes")
    other = small_card().replace(preprocess=PreprocessSpec(size=5))
    refused(assemble(small_graph().SerializeToString(), other), r"\(N, 4, 4, 3\), its card says .*\(N, 5, 5, 3\)")


def test_a_changed_card_or_graph_is_not_intact(model: onnx.ModelProto) -> None:
    fields = json.loads(model.metadata_props[0].value)
    fields["classes"] = fields["classes"][::-1]
    swapped = copy.deepcopy(model)
    swapped.metadata_props[0].value = json.dumps(fields)
    assert not parse_onnx(swapped.SerializeToString(), HERE).intact
    model.graph.initializer[0].raw_data = bytes(24)
    assert not parse_onnx(model.SerializeToString(), HERE).intact


# --- files --------------------------------------------------------------------------------


def test_an_empty_huge_or_unreadable_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    with pytest.raises(FormatError, match="is empty"):
        read_onnx(empty)
    with pytest.raises(FormatError, match="not a model that QuickNet reads"):
        load(empty)
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.write(BLOB[:2])
        file.truncate(3 << 30)  # sparse: nothing is read
    with pytest.raises(FormatError, match="over the limit"):
        load(huge)


def test_a_damaged_file_is_refused_by_load(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for length in (2, 40, len(BLOB) // 2, len(BLOB) - 1):
        path.write_bytes(BLOB[:length])
        with pytest.raises(FormatError):
            load(path)
    damaged = bytearray(BLOB)
    weights = BLOB.index(np.arange(6, dtype=np.float32).tobytes())
    damaged[weights + 4] ^= 1  # one bit of a weight
    path.write_bytes(damaged)
    with pytest.raises(FormatError, match="changed or damaged since its export"):
        load(path)


def test_other_kinds_of_files_are_not_taken_for_onnx() -> None:
    assert looks_like_onnx(BLOB)
    for head in (b"", b"\x80\x04cos\nsystem\n", b"PK\x03\x04", b"\x89PNG\r\n", b"\x08", b"\x08\xff"):
        assert not looks_like_onnx(head)


# --- any bytes ----------------------------------------------------------------------------

FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def survives(blob: bytes) -> None:
    """Either a line that says what is wrong, or the same graph and card."""
    try:
        file = parse_onnx(blob, HERE)
    except FormatError as error:
        assert "\n" not in str(error)
        return
    if file.intact:
        assert (file.weights_sha256, file.card) == (
            parse_onnx(BLOB, HERE).weights_sha256,
            parse_onnx(BLOB, HERE).card,
        )


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes(blob: bytes) -> None:
    survives(blob)
    survives(BLOB[:2] + blob)


@FUZZ
@given(st.data())
def test_any_change_of_a_real_file(data: st.DataObject) -> None:
    blob = bytearray(BLOB)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(blob) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert", "repeat"])):
            case "set":
                blob[at] = data.draw(st.integers(0, 255))
            case "cut":
                del blob[at : at + data.draw(st.integers(1, 30))]
            case "insert":
                blob[at:at] = data.draw(st.binary(max_size=12))
            case "repeat":
                blob[at:at] = blob[at : at + 30]
        if not blob:
            break
    survives(bytes(blob))
