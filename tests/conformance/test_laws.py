"""Every law, for every registered mapping and setting: generated from the registry, so a new mapping is tested by
being registered.
"""

import pytest

import tsallis as ts  # noqa: F401  (registers the mappings)
from tsallis.core import registry
from tsallis.testing import cases


def _grid() -> list:
    return [
        pytest.param(law, setting, id=f"{name}-{law.name}-{setting}")
        for name in registry.names()
        for law, setting in cases(registry.get(name))
    ]


@pytest.mark.parametrize(("law", "setting"), _grid())
def test_law(law, setting) -> None:
    law.check(setting)
