"""The served model: a smoke test that ends, or a server that stays."""

from __future__ import annotations

import ipaddress

from runner.draft import OUTPUT, Artifacts, Draft, Word, options
from runner.errors import RecipeError
from runner.schema import Recipe, Serve


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft | None:
    serve = recipe.serve
    if serve.engine == "none":
        return None
    _check_host(serve.host)
    port = serve.port or derived_port(artifacts.keys["export"])
    if serve.mode == "foreground":
        title = f"serve at http://{serve.host}:{port}/v1 until Ctrl-C"
        return Draft(title, "serve_embedded.py", _server(serve, artifacts, port), cached=False)
    if not recipe.evaluate.enabled:
        return None
    return Draft(
        "serve, ask, compare with the evaluation, stop", "smoke_test.py", _smoke(serve, artifacts, port), cached=False
    )


def _check_host(host: str) -> None:
    try:
        ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise RecipeError(
            f"serve.host: {host}: not an address to listen on; say 127.0.0.1, or 0.0.0.0 for every interface"
        ) from None


def derived_port(key: str) -> int:
    """A port below the range that systems hand out by themselves; other adapters get other ports."""
    return 20000 + int(key.rpartition("-")[2], 16) % 10000


def _smoke(serve: Serve, artifacts: Artifacts, port: int) -> list[str | Word]:
    return [
        "--evaluation", artifacts.path("evaluate"),
        *options(base_name=serve.base_name, adapter_name=serve.adapter_name, port=port),
        *options(prompts=serve.smoke_prompts, timeout=serve.timeout),
        "--output", OUTPUT,
        "--", *artifacts.program("serve_embedded.py"), *_server(serve, artifacts, port),
    ]  # fmt: skip


def _server(serve: Serve, artifacts: Artifacts, port: int) -> list[str | Word]:
    adapter = artifacts.path("export", "adapter")
    return [
        "--model", artifacts.path("fetch"),
        "--adapter", Word(f"{serve.adapter_name}={adapter.text}", adapter.identity),
        *options(served_model_name=serve.base_name, host=serve.host, port=port, dtype=serve.dtype),
    ]  # fmt: skip
