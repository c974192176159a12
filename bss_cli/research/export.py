"""`bss research export`: what a training run came to, as an artefact that a service can run."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bss_cli.terminal import fail


def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Directory of a training run, or stable-baselines3's model.zip.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The .safetensors file to write.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name in the manifest. Default: that of RUN.")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="What evaluate wrote; goes into the manifest.")] = None,
) -> None:
    """Write the policy of a training run as an artefact, and its manifest beside it as JSON.

    Of a model that PPO, A2C or SAC of stable-baselines3 saved only the numbers
    are read, and nothing in it is run; what can't be known so is refused.

    The evaluation must be one of this very policy.
    """
    from bss_service.policies import artefact
    from envs.research.actors import read_artefact
    from envs.research.export import of_file

    try:
        is_file = run.suffix == ".zip"
        read = artefact.read(of_file(run, name=name)) if is_file else read_artefact(run / "policy.safetensors")
        fields = {
            **read.manifest.model_dump(exclude={"sha256"}),
            "name": name or (run.stem if is_file else run.resolve().name),
        }
        if evaluation is not None:
            fields["evaluation"] = _figures(json.loads(evaluation.read_text()), read.sha256)
        data = artefact.write(fields, read.tensors)
    except (ValueError, OSError, artefact.ArtefactError) as error:
        fail(str(error))
    described = artefact.read(data).manifest
    out.write_bytes(data)
    out.with_suffix(".json").write_text(json.dumps(described.model_dump(), indent=2) + "\n")
    typer.echo(f"{out}: {described.name}, sha256 {described.sha256}")


def _figures(judged: dict[str, Any], sha256: str) -> dict[str, Any]:
    """What an evaluation says of one policy. Raises ValueError where it is of others."""
    names = [name for name, identity in judged["policies"].items() if identity == sha256]
    if not names:
        raise ValueError(f"evaluation must be one of the policy {sha256[:12]}…, got one of {[*judged['policies']]}")
    contenders = {"policy": names[0], "best fixed in hindsight": "best fixed in hindsight"}
    verdicts = {name: judged["verdicts"][key] for name, key in contenders.items()}
    return {"tasks": judged["tasks"], "seeds": judged["seeds"], "verdicts": verdicts}
