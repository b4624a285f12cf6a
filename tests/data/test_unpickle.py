import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quicknet.core.errors import DataError
from quicknet.data.unpickle import load_plain

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN, st.integers(0, 4))
def test_plain_data_comes_through(value, protocol):
    assert load_plain(pickle.dumps(value, protocol=protocol), "x") == value


@given(
    hnp.arrays(st.sampled_from([np.uint8, np.int32, np.int64]), hnp.array_shapes(min_side=0)),
    st.integers(2, 4),
)
def test_integer_arrays_come_through(array, protocol):
    actual = load_plain(pickle.dumps({"a": array}, protocol=protocol), "x")["a"]
    assert actual.dtype == array.dtype and np.array_equal(actual, array)


def test_a_pickle_of_python_2_comes_through_with_its_byte_strings():
    # protocol 2 as Python 2 wrote it: {'labels': [3], 'data': 'ab'}
    assert load_plain(b"\x80\x02}q\x00(U\x06labels]K\x03aU\x04dataU\x02abu.", "x") == {
        b"labels": [3],
        b"data": b"ab",
    }


class _Runs:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_is_never_run(tmp_path, protocol):
    mark = tmp_path / "ran"
    blob = pickle.dumps({"data": _Runs(os.system, f"touch {mark}")}, protocol=protocol)
    with pytest.raises(DataError, match=r"refused to unpickle .*\(batch\)"):
        load_plain(blob, "batch")
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        _Runs(eval, "1"),
        _Runs(getattr, "text", "upper"),
        _Runs(np.frombuffer, b"abc"),
        _Runs(np.dtype, "O"),
        np.array([{}, None], dtype=object),
        np.array([1.5]),
        np.array(["text"]),
        np.array([1, 2], ">i8"),
        np.ma.masked_array([1], [True]),
        {1, 2},
        bytearray(b"abc"),
        1j,
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_everything_else_is_refused(value, protocol):
    with pytest.raises(DataError, match="refused to unpickle"):
        load_plain(pickle.dumps({"data": value}, protocol=protocol), "batch")


def test_a_huge_claimed_shape_is_refused_before_allocation():
    blob = pickle.dumps(np.zeros((3, 5), np.uint8), protocol=2)
    assert blob.count(b"K\x03K\x05\x86") == 1
    huge = blob.replace(b"K\x03K\x05\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86")
    with pytest.raises(DataError, match="claims shape"):
        load_plain(huge, "batch")


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"not a pickle",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 45) + b"abc.",  # BINBYTES8 of 32 TB
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 45) + b"abc.",  # BYTEARRAY8
        b"\x80\x02]r\xff\xff\xff\xff.",  # LONG_BINPUT at 2^32 - 1
        b"\x80\x02" + b"(" * 1000 + b".",
        b"\x80\x02h\x05.",  # BINGET of nothing
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\ntR(K\x01K\x02tb.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02Pid\n.",
    ],
)
def test_hostile_and_damaged_pickles_are_one_error(blob):
    with pytest.raises(DataError, match=r"\(batch"):
        load_plain(blob, "batch")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_data_error(blob):
    try:
        load_plain(b"\x80\x02" + blob, "x")
    except DataError as error:
        assert str(error).endswith("get the official archive")
