"""What the documentation promises: examples run, names are documented, citations exist, pages are complete."""

import doctest
import importlib
import inspect
import itertools
import pkgutil
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import tsallis as ts
from tsallis.core.domains import Box
from tsallis.core.mapping import SeparableMapping, Solved
from tsallis.core.registry import get, names, registered, unregister

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import gen_mappings  # noqa: E402
import gen_references  # noqa: E402
import gen_transformers  # noqa: E402

MODULES = sorted(m.name for m in pkgutil.walk_packages(ts.__path__, "tsallis."))
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def python_blocks(path: Path) -> str:
    """All Python blocks of a page as one program."""
    return "\n".join(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/api/nn.md"])
def test_python_blocks_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = python_blocks(ROOT / page)
    assert "ts." in code
    exec(compile(code, page, "exec"), {"__name__": "example"})


def test_the_hierarchy_of_the_api_page_runs() -> None:
    page = (DOCS / "api" / "latent.md").read_text(encoding="utf-8")
    section = page.split("### Hierarchies")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    namespace: dict[str, object] = {"__name__": "example"}
    exec(compile(code, "latent.md", "exec"), namespace)
    assert namespace["scores"].grad.isfinite().all()
    assert namespace["given_z"].grad.abs().max() > 0


def test_the_example_of_contributing_is_a_mapping(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {"__name__": "example"}
    before = names()
    try:
        exec(compile(python_blocks(ROOT / "CONTRIBUTING.md"), "CONTRIBUTING.md", "exec"), namespace)
        z = namespace["z"]
        assert z.grad.tolist() == [pytest.approx([-0.5, -0.2, 0.5])]
        assert "1 rows: solved" in capsys.readouterr().out
    finally:
        for name in set(names()) - set(before):
            unregister(name)


def test_doctests_are_found() -> None:
    assert "tsallis.mappings.entmax" in MODULES


@pytest.mark.parametrize("name", ["tsallis", *MODULES])
def test_doctests(name: str) -> None:
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags).failed == 0


def documented() -> set[str]:
    """Dotted names that some API page renders."""
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md")]
    pages += [gen_mappings.page(), gen_transformers.page()]
    return set(re.findall(r"^::: (\S+)", "\n".join(pages), re.MULTILINE))


def public_names() -> list[tuple[ModuleType, str]]:
    return [(ts, n) for n in ts.__all__] + [(ts.nn, n) for n in dir(ts.nn)]


@pytest.mark.parametrize(("module", "name"), public_names(), ids=lambda x: getattr(x, "__name__", x))
def test_public_names_are_documented(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    if not callable(value) or isinstance(value, ModuleType):
        return
    doc = value.__doc__ or ""
    assert doc.strip(), f"{name} has no docstring"
    modules_of_mappings = {gen_mappings.mapping_row(get(n))["module"] for n in names()}
    home = f"{value.__module__}.{value.__qualname__}"
    shown = {f"{module.__name__}.{name}", home} & documented() or f"`ts.nn.{name}`" in modules_of_mappings
    assert shown or "Example:" in doc, f"{name} has no Example and is on no API page"


SECTIONS = {"Args", "Attributes", "Returns", "Raises", "Differentiability", "Complexity", "Example", "References"}


def rendered() -> list[object]:
    """What the API pages show: the objects they name, and the public methods those define."""
    found = []
    for path in sorted(documented()):
        # As an attribute of its package a module is hidden by a function of the same name; in sys.modules it is not.
        home = path if path in sys.modules else path.rpartition(".")[0]
        value = sys.modules[home] if home == path else getattr(sys.modules[home], path.rpartition(".")[2])
        methods = vars(value).values() if inspect.isclass(value) else ()
        found += [value, *(m for m in methods if inspect.isfunction(m) and not m.__name__.startswith("_"))]
    return found


@pytest.mark.parametrize(
    "value", rendered(), ids=lambda v: f"{v.__module__}.{v.__qualname__}" if callable(v) else v.__name__
)
def test_docstrings_render_as_meant(value: object) -> None:
    # An indented line makes the line above it a section, one not indented enough is an argument, and <p, z> is a tag.
    text = inspect.cleandoc(value.__doc__ or "")
    lines = text.split("\n")
    titles = {a for a, b in itertools.pairwise(lines) if re.match(r"\S.*:", a) and re.match(r" +\S", b)}
    assert titles <= {f"{section}:" for section in SECTIONS} or inspect.ismodule(value)
    arguments = re.search(r"^Args:\n((?: +.*\n?)+)", text, re.MULTILINE)
    for line in re.findall(r"^    (?! )(.*)$", arguments[1] if arguments else "", re.MULTILINE):
        assert re.match(r"\*{0,2}\w+(, \w+)*: ", line), f"not an argument: {line}"
    prose = re.sub(r"`[^`]+`|\$[^$]+\$|>>> .*", "", text)
    assert not re.search(r"<\w", prose), "write it between $ or backticks"


def test_reference_keys_exist() -> None:
    known = {entry.key for entry in gen_references.references()}
    cited = {get(name).reference for name in names() if get(name).reference}
    for path in SOURCES:
        for keys in re.findall(r"References:\n\s+([\w, ]+)\n", path.read_text(encoding="utf-8")):
            cited |= {key.strip() for key in keys.split(",")}
    for path in (DOCS / "theory").glob("*.md"):
        cited |= set(re.findall(r"references\.md#(\w+)", path.read_text(encoding="utf-8")))
    assert {"peters2019sparse", "correia2019adaptively"} <= cited
    assert cited <= known


def test_references_are_complete() -> None:
    entries = gen_references.references()
    assert len(entries) == (DOCS / "references.bib").read_text(encoding="utf-8").count("@")
    for entry in entries:
        assert {"title", "author", "year"} <= set(entry.fields), entry.key
        assert f'id="{entry.key}"' in gen_references.page(entries)


def test_every_mapping_is_on_the_generated_page() -> None:
    page = gen_mappings.page()
    for mapping in map(get, names()):
        assert f"## {mapping.name} " in page
        assert mapping.latex in page
        assert mapping.domain.latex in page
        for param in mapping.params:
            assert param.meaning in page
        for reason in mapping.exempt.values():
            assert reason in page


class Throwaway(SeparableMapping):
    name = "throwaway"
    summary = "Clips."
    latex = r"\tfrac12 \|p\|_2^2"
    domain = Box()

    def omega(self, p, **params):
        return 0.5 * p.square().sum(-1)

    def solve(self, z, **params):
        return Solved(z.clamp(0, 1))

    def weight(self, p, **params):
        return ((p > 0) & (p < 1)).to(p.dtype)


def test_every_type_of_models_is_on_the_generated_page() -> None:
    page = gen_transformers.page()
    listed = gen_transformers.json.loads(gen_transformers.LIST.read_text(encoding="utf-8"))
    assert listed["transformers"] in page
    for section in ("supported", "refused", "undecided", "elsewhere"):
        assert listed[section]
        assert all(f"`{name}`" in page for name in listed[section])


def test_a_new_mapping_appears_on_the_page() -> None:
    assert "throwaway" not in gen_mappings.page()
    with registered(Throwaway()):
        assert "`ts.nn.Throwaway`" in gen_mappings.page()


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {project['version']}\n" in citation
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^torch==2\.13\.0$", pins, re.MULTILINE)
    assert not re.search(r"[/@]|\+cpu", re.sub(r"^#.*$", "", pins, flags=re.MULTILINE))
