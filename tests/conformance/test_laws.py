"""Every law, for every registered mapping and setting: generated from the registry, so a new mapping is tested by
being registered.
"""

import pytest

import tsallis as ts
from tsallis.core import dispatch, registry
from tsallis.testing import cases, settings


def _grid(*, first: bool = False) -> list:
    return [
        pytest.param(law, setting, id=f"{name}-{law.name}-{setting}")
        for name in registry.names()
        for law, setting in cases(registry.get(name))
        if not first or (dispatch.backends(name)[0] != "reference" and setting == next(settings(registry.get(name))))
    ]


@pytest.mark.parametrize(("law", "setting"), _grid())
def test_law(law, setting) -> None:
    law.check(setting)


@pytest.mark.parametrize(("law", "setting"), _grid(first=True))
def test_law_on_the_reference(law, setting) -> None:
    """The definition obeys what the kernels chosen by default obey, in the first setting of each mapping."""
    with ts.use_backend("reference"):
        law.check(setting)
