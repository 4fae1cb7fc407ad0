"""What holds for every twin: it says what is wrong, names its pattern, and differs from it in that alone."""

import pkgutil
from importlib import import_module
from types import ModuleType

import pytest

from labserver import broken, patterns
from labserver.stage.source import difference

TWINS = [import_module(f"labserver.broken.{module.name}") for module in pkgutil.iter_modules(broken.__path__)]


def routes(module: ModuleType) -> set[str]:
    return {route.path for route in module.router.routes}


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__.rpartition(".")[2])
def test_a_twin_differs_from_its_pattern_in_twelve_lines_or_fewer(twin: ModuleType) -> None:
    assert twin.PATTERN in patterns.TOPICS
    pattern = import_module(f"labserver.patterns.{twin.PATTERN}")
    assert 1 <= difference(twin, pattern) <= 12
    assert routes(twin) == routes(pattern)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__.rpartition(".")[2])
def test_a_twin_says_in_one_line_what_is_wrong(twin: ModuleType) -> None:
    assert "\n" not in twin.WRONG
    assert twin.WRONG.endswith(".")


def test_every_module_with_routes_is_a_topic_and_every_topic_has_routes() -> None:
    modules = {
        module.name: import_module(f"labserver.patterns.{module.name}")
        for module in pkgutil.iter_modules(patterns.__path__)
    }
    assert {name for name, module in modules.items() if hasattr(module, "router")} == set(patterns.TOPICS)
