"""Pictures of networks: which arrows there are, that none lies on another, and that no text does."""

import functools
import re
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from quicknet.core.flow import IMAGE, Flow, Join, chain, unconnected
from quicknet.models.costs import count_costs, trace_flow
from quicknet.models.registry import base_config, create_model, list_models
from quicknet.report.lanes import Edge, route
from quicknet.report.network import Drawing, draw_network

SVG = "{http://www.w3.org/2000/svg}"


@functools.cache
def drawing_of(name: str) -> Drawing:
    config = base_config(name)
    return Drawing(name, config.in_channels, config.image_size, trace_flow(lambda: create_model(name)))


def boxes(root: ET.Element) -> list[tuple[float, str]]:
    """Top and class of the image's box and of each node's, from above."""
    found = [node for node in root.iter(f"{SVG}rect") if node.get("class") in ("box", "join")]
    return [(float(node.attrib["y"]), node.attrib["class"]) for node in found]


def drawn_arrows(root: ET.Element) -> list[tuple[int, int]]:
    """Source and target of each arrow, by the boxes that its ends are at; the image is -1."""
    tops = [top for top, _ in boxes(root)]
    arrows = []
    for path in root.iter(f"{SVG}path"):
        if path.get("class") == "arrow":
            ends = re.fullmatch(r"M\d+ (\d+)(?:.* (\d+)H\d+|V(\d+))", path.attrib["d"])
            assert ends, path.attrib["d"]
            start, end = float(ends[1]), float(ends[2] or ends[3])
            at = [next(i for i, top in enumerate(tops) if top <= y <= top + 22) - 1 for y in (start, end)]
            arrows.append((at[0], at[1]))
    return arrows


@pytest.mark.parametrize("name", list_models())
def test_every_network_is_drawn_with_all_its_arrows(name: str) -> None:
    drawing = drawing_of(name)
    root = ET.fromstring(draw_network(drawing))
    assert [kind for _, kind in boxes(root)] == [
        "box",
        *("join" if isinstance(node.what, Join) else "box" for node in drawing.flow),
    ]
    expected = [(source, target) for target, node in enumerate(drawing.flow) for source in node.inputs]
    assert drawn_arrows(root) == expected
    assert not [node.text for node in root.iter(f"{SVG}text") if "not drawn" in (node.text or "")]
    check_lanes(drawing.edges)
    check_texts(root)


def check_lanes(edges: tuple[Edge, ...]) -> None:
    """No two maps are in one lane at one height, and only what passes a row is in a lane."""
    held: Counter[tuple[int, int]] = Counter()
    ends = {edge.source: edge for edge in edges if edge.lane is not None}  # the last of each
    for edge in edges:
        assert (edge.lane is None) == (edge.target == edge.source + 1)
        assert edge.lane in (None, ends.get(edge.source, edge).lane)
    for edge in ends.values():
        assert edge.lane is not None
        held.update((edge.lane, row) for row in range(edge.source, edge.target))
    assert max(held.values(), default=1) == 1


def check_texts(root: ET.Element) -> None:
    """No two texts of one line meet, at the widths that letters have at most on average."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for node in root.iter(f"{SVG}text"):
        size = 10 if "style" in node.attrib else 16 if node.get("class") == "title" else 12
        width, x = 0.56 * size * len(node.text or ""), float(node.attrib["x"])
        left = x - {"middle": width / 2, "end": width}.get(node.get("text-anchor", ""), 0)
        lines.setdefault(node.attrib["y"], []).append((left, left + width))
    for spans in lines.values():
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(spans)), spans
    small = [node for node in root.iter(f"{SVG}text") if "style" in node.attrib and node.get("text-anchor") == "end"]
    joins = {top for top, kind in boxes(root) if kind == "join"}
    beside = [node.text or "" for node in small if float(node.attrib["y"]) - 3 in joins]
    assert all(len(text) <= 13 for text in beside), beside  # between the join and the lanes


def test_what_is_parallel_has_no_arrow_between() -> None:
    for name, before, after in (
        ("repvgg_a0", "block1.three", "block1.one"),
        ("shufflenet_v2_x05", "block0.short.1", "block0.branch.0"),
        ("maxout", "features.7.pieces.0", "features.7.pieces.1"),
    ):
        drawing = drawing_of(name)
        numbers = {node.what.name: i for i, node in enumerate(drawing.flow) if not isinstance(node.what, Join)}
        assert numbers[after] == numbers[before] + 1
        arrows = drawn_arrows(ET.fromstring(draw_network(drawing)))
        assert (numbers[before], numbers[after]) not in arrows
        assert sum(target == numbers[after] for _, target in arrows) == 1


def test_arrows_in_lanes_say_from_where_to_where() -> None:
    root = ET.fromstring(draw_network(drawing_of("resnet_20")))
    titles = [title.text for path in root.iter(f"{SVG}path") for title in path]
    assert titles[:3] == ["stem → sum", "sum → sum", "sum → sum"]
    assert titles.count("block3.conv2 → concat") == 1
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert texts.count("sum") == 9 and texts.count("concat") == 2
    assert {"16 of 32", "side ÷ 2", "average"} <= {*texts}


def test_a_chain_is_drawn_as_it_was() -> None:
    layers = count_costs(lambda: create_model("quicknet_s")).layers
    text = draw_network(Drawing("quicknet_s", 3, 32, chain(layers)))
    assert text == draw_network(drawing_of("quicknet_s"))
    assert 'width="832" height="582"' in text
    root = ET.fromstring(text)
    straight = [path.attrib["d"] for path in root.iter(f"{SVG}path") if path.get("class") == "arrow"]
    assert straight == [f"M141 {104 + 32 * row}V{114 + 32 * row}" for row in range(14)]
    assert text == (Path(__file__).parents[2] / "docs" / "quicknet_s.svg").read_text(encoding="utf-8")


def test_what_nobody_knows_is_not_drawn() -> None:
    layers = count_costs(lambda: create_model("resnet_20")).layers
    root = ET.fromstring(draw_network(Drawing("resnet_20", 3, 32, unconnected(layers))))
    assert drawn_arrows(root) == []
    assert [node for node in root.iter(f"{SVG}text") if "is not drawn" in (node.text or "")]


def test_the_shortest_ways_are_next_to_the_boxes() -> None:
    flow: Flow = drawing_of("googlenet").flow
    lanes = {edge.source: edge.lane for edge in route(flow) if edge.lane is not None}
    names = {i: node.what.name for i, node in enumerate(flow) if not isinstance(node.what, Join)}
    by_name = {names[source]: lane for source, lane in lanes.items() if source != IMAGE and source in names}
    assert by_name["features.7.five.1"] == 0
    assert by_name["features.7.three.1"] == 1
    assert by_name["features.7.one"] == 3 == max(lanes.values())
