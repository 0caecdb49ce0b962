import numpy as np
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tritserve.model.packed.tensors import save_tensors


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0),
    ),
    st.data(),
)
def test_arrays_of_any_memory_order_come_back(array, data):
    axes = data.draw(st.permutations(range(array.ndim)))
    steps = tuple(slice(None, None, data.draw(st.sampled_from([1, -1, 2]))) for _ in axes)
    given_order = array.transpose(axes)[steps]
    read = safetensors.numpy.load(save_tensors({"x": given_order}))["x"]
    assert read.dtype == given_order.dtype
    np.testing.assert_array_equal(read, given_order, strict=True)
