"""Fixtures of the tests of the kernels."""

import pytest

from shards.codecs import _compiled
from tests.shards.kernel_ways import NATIVE_MODULE, WAYS


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if request.param == "fallback":
        monkeypatch.setattr(_compiled, "native", None)
        yield request.param
        return
    if NATIVE_MODULE is None:
        pytest.skip("the compiled kernels are not built (pip install -e . where there is a C compiler)")
    NATIVE_MODULE.portable(request.param == "portable")
    yield request.param
    NATIVE_MODULE.portable(False)


@pytest.fixture
def native():
    if NATIVE_MODULE is None:
        pytest.skip("the compiled kernels are not built (pip install -e . where there is a C compiler)")
    return NATIVE_MODULE
