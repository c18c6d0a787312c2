"""The documentation: it is built as `make docs` does, without a network, and compared with the program."""

import ast
import dataclasses
import inspect
import re
import shlex
import sys
import typing
from html.parser import HTMLParser
from subprocess import run
from types import ModuleType
from urllib.parse import urlsplit

import pytest
from browser_visitor import PATIENCE, PHONE
from conftest import ROOT
from folder_server import serving

import cait_viz
from cait_viz import training
from cait_viz.cli.main import application, main
from cait_viz.drawing.overlay import Appearance

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
METHODS = sorted(path for path in (DOCS / "methods").glob("*.md") if path.name != "index.md")
IDS = [path.relative_to(DOCS).as_posix() for path in PAGES]
QUESTIONS = ("analyze", "trace", "block_attention", "explain", "ablate", "trust", "randomize", "find_map")
# What a page has a browser fetch by itself: not the links that a reader may follow.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}

BUILD = """
import socket, sys
from mkdocs.__main__ import cli

def refuse(*arguments, **options):
    raise AssertionError(f"the build asks for a network: {arguments}")

socket.socket.connect = socket.getaddrinfo = refuse
cli(["build", "--strict", "--site-dir", sys.argv[1]])
"""


class Page(HTMLParser):
    """What a page of the site holds."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.fetched, self.links, self.alts = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.add(values.get("id"))
        if tag == "a":
            self.links.append(values.get("href") or "")
        if tag == "img":
            self.alts.append(values.get("alt"))
        if values.get("rel") != "canonical" and (address := values.get(FETCHED.get(tag))):
            self.fetched.append(address)


@pytest.fixture(scope="module")
def site(environment, tmp_path_factory):
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Of a link to a file that is left out of the site, MkDocs tells as of nothing bad.
    assert "excluded" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page of the site, by its path."""
    return {
        path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
    }


def code(path, language):
    """The blocks of code of a page, of a language or of none ("")."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for found, text in blocks if found == language]


# --- the site ---------------------------------------------------------------------------------------------


def test_a_page_has_the_browser_ask_no_other_host(pages, site):
    for name, page in pages.items():
        assert page.fetched, name
        assert [address for address in page.fetched if urlsplit(address).netloc] == [], name
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"url\(\s*[\"']?([^)\"']+)|@import\s+[\"']([^\"']+)", sheet.read_text("utf-8"))
        assert [one for pair in addresses for one in pair if urlsplit(one).netloc] == [], sheet.name


def test_every_file_that_a_page_fetches_or_links_is_there(pages, site):
    for name, page in pages.items():
        if name == "404.html":  # whose addresses begin at the site's root
            continue
        for address in (*page.fetched, *page.links):
            parts = urlsplit(address)
            if parts.scheme or not parts.path:
                continue
            assert ((site / name).parent / parts.path).resolve().is_file(), (name, address)


def test_every_picture_has_a_text_in_its_place(pages):
    assert all(alt for page in pages.values() for alt in page.alts)
    assert sum(len(page.alts) for page in pages.values()) > 12


def test_every_picture_of_the_documentation_is_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in [*PAGES, ROOT / "README.md"])
    pictures = {path.name for path in DOCS.iterdir() if path.suffix in (".jpg", ".png")}
    assert {name for name in pictures if name not in text} == set()


def test_every_page_is_in_the_order_of_the_pages(pages):
    told = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [name for name in IDS if name not in told] == []
    assert "assets/MODEL_CARD.html" in pages
    assert "benchmarks/README.html" in pages


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_no_page_is_wider_than_a_phone_or_asks_another_host(scheme, site, browser):
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)
    page, outside, complaints = context.new_page(), [], []
    page.set_default_timeout(PATIENCE)
    with serving(site) as address:
        own = f"{address}/"
        page.on("request", lambda asked: asked.url.startswith((own, "data:")) or outside.append(asked.url))
        page.on("console", lambda told: told.type == "error" and complaints.append(told.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        for name in (
            "index",
            "tour",
            "methods/trust",
            "reference/cli",
            "reference/results",
            "benchmarks/README",
        ):
            page.goto(f"{own}{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], name
        page.wait_for_load_state("networkidle")
        page.get_by_role("textbox", name="Search").press_sequentially("rollout")  # it listens to keys
        page.locator(".md-search-result__item").first.wait_for(state="attached")
        context.close()
    assert outside == []
    assert complaints == []


# --- the references ---------------------------------------------------------------------------------------


def test_every_command_has_its_section_with_the_options_that_its_help_lists(site, capsys):
    text = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    headed = re.split(r'<h2 id="cait-viz-([a-z]+)">', text)[1:]
    sections = dict(zip(headed[::2], headed[1::2], strict=True))
    commands = [name for name in application(None) if not name.startswith("-")]
    assert len(commands) > 15
    assert set(sections) == set(commands)
    for name in commands:
        assert main([name, "--help"]) == 0
        options = re.findall(r"^ *(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
        documented = re.findall(r"<code>(--[a-z-]+)", sections[name])
        assert set(options) - {"--help", "--version"} == set(documented), name


@pytest.mark.parametrize("module", [cait_viz, training], ids=lambda module: module.__name__)
def test_every_public_name_stands_in_the_reference(module, pages):
    ids = set().union(*(page.ids for name, page in pages.items() if name.startswith("reference/")))
    assert [name for name in module.__all__ if f"{module.__name__}.{name}" not in ids] == []


def test_every_result_that_a_question_gives_stands_in_the_reference_with_its_fields(pages, site):
    text = (site / "reference" / "results.html").read_text(encoding="utf-8")
    for question in QUESTIONS:
        result = returned(getattr(cait_viz, question))
        names = {f"{result.__module__}.{result.__name__}", f"cait_viz.{result.__name__}"}
        assert names & pages["reference/results.html"].ids, question
        for field in dataclasses.fields(result):
            assert f">{field.name}<" in text, (question, field.name)


# --- the examples -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_every_method_has_a_formula_a_source_and_both_ways_to_ask(path):
    headings = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [one for one in headings if one != "What it found"] == [
        "Formula",
        "In Python",
        "On the command line",
        "Source",
    ]
    assert code(path, "python")
    assert "cait-viz " in "".join(code(path, ""))
    assert (
        f"methods/{path.name}"
        in (ROOT / "README.md").read_text(encoding="utf-8") + "methods/class-attention.md"
    )
    assert f"]({path.name})" in (DOCS / "methods" / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=[*IDS, "README.md"])
def test_every_command_of_a_page_is_one(path, capsys):
    for command in re.findall(r"^cait-viz (.*)$", "".join(code(path, "")), re.MULTILINE):
        # With an option that is none, nothing is run; any other fault would be reported in its place.
        assert main([*shlex.split(command, comments=True), "--no-such-option"]) == 2
        assert "--no-such-option" in capsys.readouterr().err, command


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=[*IDS, "README.md"])
def test_every_name_and_argument_in_python_on_a_page_exists(path):
    for block in code(path, "python"):
        known = {}
        for node in ast.parse(block).body:
            for call in ast.walk(node):
                if isinstance(call, ast.Attribute | ast.Call):
                    kind_of(call, known)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                known[node.targets[0].id] = kind_of(node.value, known)


@pytest.mark.parametrize(
    "line",
    [
        "cait_viz.no_such_name",
        "cait_viz.analyze(image, engine).no_such_name",
        "cait_viz.analyze(image, engine).overlay(no_such_argument=1)",
        "cait_viz.trace(image)",
    ],
)
def test_a_name_or_argument_that_is_none_is_found(line):
    with pytest.raises((AssertionError, TypeError)):
        kind_of(ast.parse(line, mode="eval").body, {})


def kind_of(node, known):
    """What an expression gives: a module, a function, or the class of a value; None where it is not known."""
    if isinstance(node, ast.Name):
        return {"cait_viz": cait_viz, **known}.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = kind_of(node.value, known)
        if isinstance(owner, ModuleType):
            assert hasattr(owner, node.attr), ast.unparse(node)
            return getattr(owner, node.attr)
        return member(owner, node.attr) if inspect.isclass(owner) else None
    if isinstance(node, ast.Call):
        function = kind_of(node.func, known)
        if function is None:
            return None
        given = [None] * (len(node.args) + (inspect.isfunction(function) and "." in function.__qualname__))
        bound = inspect.signature(function).bind(*given, **{one.arg: None for one in node.keywords})
        appearance = bound.arguments.get("appearance", {})
        assert set(appearance) <= {field.name for field in dataclasses.fields(Appearance)}, ast.unparse(node)
        return function if inspect.isclass(function) else returned(function)
    return None


def member(owner, name):
    """A method of a class, or the class of what one of its attributes holds; None where that is not known."""
    fields = {field.name for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    assert hasattr(owner, name) or name in fields, f"{owner.__name__} has no {name}"
    found = inspect.getattr_static(owner, name, None)
    if inspect.isfunction(found):
        return found
    if isinstance(found, property):
        return returned(found.fget)
    kind = typing.get_type_hints(owner).get(name) if name in fields else None
    return kind if inspect.isclass(kind) else None


def returned(function):
    """The class of what a function gives; None for what has none or is not of this package."""
    kind = inspect.signature(function).return_annotation
    return kind if inspect.isclass(kind) and kind.__module__.startswith("cait_viz") else None
