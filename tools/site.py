"""What the site has beside docs/: pages with another home, notebooks, and references made from the code.

A hook of MkDocs. Links are written as they are right in the repository, and led to where the site has the page.
"""

import importlib
import json
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]
ELSEWHERE: Final = {  # where the site has pages whose home is not docs/
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "how-to/examples/README.md",
    "examples/policy_package/README.md": "how-to/examples/policy_package/README.md",
    "examples/task_package/README.md": "how-to/examples/task_package/README.md",
    **{f"benchmarks/results/{path.name}": f"figures/{path.name}" for path in ROOT.glob("benchmarks/results/*.md")},
    "benchmarks/speed/large.md": "figures/large.md",
    **{f"docs/notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in ROOT.glob("docs/notebooks/*.ipynb")},
}
_HOMES: Final = {site: home for home, site in ELSEWHERE.items()}
_LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_FENCE: Final = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what docs/ does not have."""
    for notebook in list(files):
        if notebook.src_uri.endswith(".ipynb"):
            files.remove(notebook)
    made = {site: _read(ROOT / home) for home, site in ELSEWHERE.items()} | {
        "reference/cli.md": command_line(),
        "reference/http.md": http_interface(),
        "reference/trainer_client.md": names_of("trainer_client", "What runs beside the GPU"),
        "reference/envs.md": names_of("envs", "Environments"),
        "decisions/index.md": decisions(),
    }
    for site, text in made.items():
        files.append(File.generated(config, site, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the site's pages; what the site does not have is named by its path."""
    here = page.file.src_uri
    home = _HOMES.get(here, f"docs/{here}")

    def led(link: re.Match[str]) -> str:
        image, text, target, fragment = link.groups(default="")
        there = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
        site = ELSEWHERE.get(there, there.removeprefix("docs/"))
        site = f"{site}/index.md" if site == "decisions" else site
        if files.get_file_from_path(site) is None:
            if not (ROOT / there).exists():
                return link[0]  # and MkDocs will say so
            return f"{text} (`{there}`)"
        return f"{image}[{text}]({posixpath.relpath(site, posixpath.dirname(here) or '.')}{fragment})"

    parts = _FENCE.split(markdown)
    return "".join(part if k % 2 else _LINK.sub(led, part) for k, part in enumerate(parts))


def _read(path: Path) -> str:
    return path.read_text() if path.suffix == ".md" else notebook(json.loads(path.read_text()))


def notebook(content: dict[str, Any]) -> str:
    """A notebook's cells as a page."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells)


def decisions() -> str:
    """The list of decisions, by their first lines."""
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    titles = [(path.name, path.read_text().splitlines()[0].lstrip("# ")) for path in pages]
    return "# Decisions\n\nWhy things are as they are.\n\n" + "\n".join(f"- [{t}]({name})" for name, t in titles)


def names_of(package: str, title: str) -> str:
    """The public names of a package that imports them when they are asked for, each from its docstring."""
    module = importlib.import_module(package)
    homes = vars(module)["_HOMES"]
    return f"# {title}: `{package}`\n\n{module.__doc__}\n\n" + "\n\n".join(
        f"::: {homes[name]}.{name}" for name in sorted(homes)
    )


def command_line() -> str:
    """All commands of `bss`, from what they say themselves."""
    os.environ.setdefault("NO_COLOR", "1")
    from bss_cli.commands import app

    return "# The command line: `bss`\n\n" + "\n\n".join(_commands(typer.main.get_command(app), "bss"))


def _commands(command: Any, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    rows = [_parameter(p) for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    table = "| | | default |\n|---|---|---|\n" + "\n".join(rows) if rows else ""
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {name}\n\n```text\n{name} {usage}\n```\n\n{command.help or ''}\n\n{table}"
    for below, subcommand in getattr(command, "commands", {}).items():
        yield from _commands(subcommand, f"{name} {below}")


def _parameter(parameter: Any) -> str:
    names = ", ".join(f"`{n}`" for n in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name).upper()}`"
    default = parameter.default if isinstance(parameter.default, int | float | str) else ""
    default = "" if default is False else f"`{default}`" if default != "" else ""
    return f"| {names} | {_cell(getattr(parameter, 'help', None))} | {default} |"


def http_interface() -> str:
    """All calls and messages, from the OpenAPI document."""
    from bss_service.http.app import create_app
    from bss_service.journal.store import Store
    from bss_service.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(store=f"{folder}/bss.sqlite")
        store = Store(settings.store)
        document = create_app(settings, store).openapi()
        store.close()
    text = f"# The HTTP interface\n\n{document['info'].get('description', '')}\n\n"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            text += f"## {method.upper()} {path}\n\n{_operation(operation)}\n\n"
    text += "# Messages\n\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        text += f"## {name}\n\n{schema.get('description', '')}\n\n{_fields(schema)}\n\n"
    return text.replace("\n# Messages", "\n## Messages")


def _operation(operation: dict[str, Any]) -> str:
    security = [scope for way in operation.get("security", []) for scopes in way.values() for scope in scopes]
    text = operation.get("description") or operation.get("summary", "")
    if security:
        text += f"\n\nScope: `{'`, `'.join(security)}`."
    if parameters := operation.get("parameters"):
        text += "\n\n| parameter | in | type | |\n|---|---|---|---|\n" + "\n".join(
            f"| `{p['name']}` | {p['in']} | {_type(p.get('schema', {}))} | {_cell(p.get('description'))} |"
            for p in parameters
        )
    bodies = operation.get("requestBody", {}).get("content", {})
    for kind, body in bodies.items():
        text += f"\n\nBody, `{kind}`: {_type(body.get('schema', {}))}"
    rows = []
    answers = operation.get("responses", {})
    failures = [status for status in answers if int(status) >= 400]
    for status in [status for status in answers if status not in failures]:
        answer = answers[status]
        types = ", ".join(_type(c.get("schema", {})) for c in answer.get("content", {}).values())
        rows.append(f"| {status} | {_cell(answer.get('description'))} | {types} |")
    text += "\n\n| status | | answer |\n|---|---|---|\n" + "\n".join(rows)
    return text + (f"\n\nFailures, as [Problem](#problem): {', '.join(failures)}." if failures else "")


def _fields(schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        f"| `{name}`{'' if name in required else ' (optional)'} | {_type(field)} | {_cell(field.get('description'))} |"
        for name, field in schema.get("properties", {}).items()
    ]
    return "| field | type | |\n|---|---|---|\n" + "\n".join(rows) if rows else ""


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return " \\| ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(s) for s in schema[several]))
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|")
