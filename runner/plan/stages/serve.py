"""The served model: a smoke test that ends, or a server that stays."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.plan.command import OUTPUT, Argument, Artifacts, Output, StageCommand, flags
from runner.plan.stages import server_options


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    serve = recipe.serve
    if serve.engine == "none":
        return None
    _check_host(serve.host)
    server_options.check(recipe)
    if serve.mode == "foreground":
        return foreground(recipe, artifacts)
    if not recipe.evaluate.enabled:
        return None
    port, program = server_options.port(recipe, artifacts), server_options.PROGRAMS[serve.engine]
    server = [*artifacts.program(program), *server_options.server(recipe, artifacts, port, Output("server"))]
    title = f"serve{' with vLLM' * (serve.engine == 'vllm')}, ask, compare with the evaluation, stop"
    words = [*_smoke(recipe, artifacts, port), "--", *server]
    needs = server_options.packages(recipe, artifacts.place)
    return StageCommand(title, "smoke_test.py", words, cached=False, cores=server_options.cores(recipe), packages=needs)


def foreground(recipe: Recipe, artifacts: Artifacts, adapters: Sequence[Argument] = ()) -> StageCommand:
    """A server that stays, of the recipe's adapter or of the `adapters` that are named."""
    port = server_options.port(recipe, artifacts)
    title = f"serve at http://{recipe.serve.host}:{port}/v1 until Ctrl-C"
    words = server_options.server(recipe, artifacts, port, OUTPUT, adapters)
    needs = server_options.packages(recipe, artifacts.place)
    program = server_options.PROGRAMS[recipe.serve.engine]
    return StageCommand(title, program, words, cached=False, cores=server_options.cores(recipe), packages=needs)


def _check_host(host: str) -> None:
    try:
        ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise RecipeError(
            f"serve.host: {host}: not an address to listen on; say 127.0.0.1, or 0.0.0.0 for every interface"
        ) from None


def _smoke(recipe: Recipe, artifacts: Artifacts, port: int) -> list[str | Argument]:
    serve = recipe.serve
    return [
        "--evaluation", artifacts.path("evaluate"),
        *flags(base_name=serve.base_name, adapter_name=serve.adapter_name, port=port),
        *([] if server_options.asks_base(recipe) else ["--no-base"]),
        *flags(prompts=serve.smoke_prompts, min_equal=server_options.min_equal(recipe)),
        *flags(near_tie=server_options.near_tie(recipe) or None, timeout=serve.timeout),
        "--output", OUTPUT,
    ]  # fmt: skip
