"""The command ``api``."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import click

from streamproc.errors import SettingsError
from streamproc.metrics import Exporter, serve as serve_metrics
from streamproc_consumers.api.server import serve
from streamproc_consumers.api.settings import ApiKey, ApiSettings, read_keys
from streamproc_consumers.live.catalogue import read_catalogue
from streamproc_consumers.live.routes import page_routes
from streamproc_consumers.reload import POLL_SECONDS, poll_seconds
from streamproc_consumers.trending import read_trending

EXIT_CODES = """\b
Exit codes:
   0  stopped by SIGTERM, after the requests under way were answered
   2  a setting or an option cannot be used, or a port is taken
   3  the stream does not exist
   4  AWS cannot be reached, to ask which states serve
   5  credentials are missing, or a call was refused
   9  something is not installed
  11  the model bundle cannot be used, nor the one before it
 130  stopped by Ctrl-C, likewise
"""


@click.command(epilog=EXIT_CODES)
@click.option(
    "--model",
    envvar="STREAMPROC_MODEL",
    show_envvar=True,
    help="As the recommender's: a bundle's folder, or s3://bucket/models/NAME@champion.",
)
@click.option("--redis-url", envvar="STREAMPROC_REDIS_URL", show_envvar=True, help="The recommender's projection.")
@click.option("--stream", envvar="STREAMPROC_STREAM", default="cart-events", show_default=True, show_envvar=True)
@click.option(
    "--application",
    envvar="STREAMPROC_RECOMMENDER_NAME",
    default="recommender",
    show_default=True,
    show_envvar=True,
    help="The recommender whose states are read.",
)
@click.option(
    "--experiment", envvar="STREAMPROC_EXPERIMENT", default="", show_envvar=True, help="As the recommender's."
)
@click.option("--cascade", envvar="STREAMPROC_CASCADE", default="", show_envvar=True, help="As the recommender's.")
@click.option(
    "--trending",
    envvar="STREAMPROC_TRENDING",
    default="",
    show_envvar=True,
    help="As the recommender's: so many trending items are offered to every user.",
)
@click.option(
    "--bucket", envvar="STREAMPROC_BUCKET", default="", show_envvar=True, help="As the recommender's, for --trending."
)
@click.option(
    "--model-poll-seconds",
    envvar="STREAMPROC_MODEL_POLL_SECONDS",
    default=str(POLL_SECONDS),
    show_default=True,
    show_envvar=True,
)
@click.option("--host", envvar="STREAMPROC_API_HOST", default="127.0.0.1", show_default=True, show_envvar=True)
@click.option(
    "--port",
    envvar="STREAMPROC_API_PORT",
    type=int,
    default=8080,
    show_default=True,
    show_envvar=True,
    help="0 takes a free one.",
)
@click.option(
    "--keys-file",
    envvar="STREAMPROC_API_KEYS_FILE",
    type=click.Path(path_type=Path),
    show_envvar=True,
    help="Lines of NAME:KEY or NAME:sha256:DIGEST. STREAMPROC_API_KEYS has more of them, apart by commas.",
)
@click.option("--insecure", is_flag=True, help="Serve other machines without keys.")
@click.option(
    "--cors-origin",
    "cors_origins",
    envvar="STREAMPROC_API_CORS_ORIGINS",
    multiple=True,
    show_envvar=True,
    metavar="ORIGIN",
    help="Pages from there may call; repeatable, and in the variable apart by spaces.",
)
@click.option(
    "--rate",
    envvar="STREAMPROC_API_RATE",
    type=float,
    default=1000.0,
    show_default=True,
    show_envvar=True,
    help="Requests a second of each key, or without keys of each address; 0 is no limit.",
)
@click.option(
    "--acknowledge-seconds",
    envvar="STREAMPROC_API_ACKNOWLEDGE_SECONDS",
    type=float,
    default=5.0,
    show_default=True,
    show_envvar=True,
    help="An event that Kinesis did not acknowledge for so long is answered with 503.",
)
@click.option(
    "--metrics",
    type=click.Choice(["none", "prometheus", "emf"]),
    envvar="STREAMPROC_API_METRICS",
    show_envvar=True,
    help="A scraper, or CloudWatch by lines on stdout. With a port, prometheus is the default.",
)
@click.option(
    "--metrics-port",
    type=int,
    envvar="STREAMPROC_API_METRICS_PORT",
    show_envvar=True,
    help="Serve /metrics there; 0 takes a free port.",
)
@click.option(
    "--metrics-address",
    envvar="STREAMPROC_API_METRICS_ADDRESS",
    default="127.0.0.1",
    show_default=True,
    show_envvar=True,
    help="Where that port listens.",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    metavar="CATALOGUE",
    help="Serve the shop page, too: a catalogue.json of what it sells (docs/live.md).",
)
@click.option(
    "--log-format", type=click.Choice(["auto", "json", "text"]), default="auto", show_default=True, help="Of stderr."
)
def api(
    model: str | None,
    redis_url: str | None,
    stream: str,
    application: str,
    experiment: str,
    cascade: str,
    trending: str,
    bucket: str,
    model_poll_seconds: str,
    host: str,
    port: int,
    keys_file: Path | None,
    insecure: bool,
    cors_origins: tuple[str, ...],
    rate: float,
    acknowledge_seconds: float,
    metrics: Exporter | None,
    metrics_port: int | None,
    metrics_address: str,
    page: Path | None,
    log_format: str,
) -> None:
    """Answer recommendations over HTTP, scored on demand, and take events into the stream.

    One process and one core; for more, run several behind a load balancer: they share nothing but the stores. The
    description of every route is at /docs, as OpenAPI 3.1 at /docs/openapi.json.

    \b
    Examples:
      streamproc api --model s3://shop-models/models/cart@champion --redis-url redis://cache:6379/0
      streamproc api --model demo-output/model --redis-url redis://127.0.0.1:6379/0 --port 0
      streamproc api --model demo-output/model --redis-url redis://127.0.0.1:6379/0 --page catalogue.json
      streamproc api --host 0.0.0.0 --keys-file keys.txt --cors-origin https://shop.example
    """
    settings = ApiSettings(
        model=_given(model, "--model", "STREAMPROC_MODEL"),
        redis_url=_given(redis_url, "--redis-url", "STREAMPROC_REDIS_URL"),
        stream=stream,
        application=application,
        experiment=experiment,
        cascade=cascade,
        trending=read_trending(trending),
        bucket=bucket,
        model_poll_seconds=poll_seconds(model_poll_seconds),
        host=host,
        port=port,
        keys=_keys(keys_file),
        insecure=insecure,
        cors_origins=cors_origins,
        rate=rate,
        acknowledge_seconds=acknowledge_seconds,
    )
    json_logs = None if log_format == "auto" else log_format == "json"
    interrupted = serve(
        settings,
        extra=_page(page, settings),
        json_logs=json_logs,
        measured=partial(
            serve_metrics,
            application=f"{application}-api",
            exporter=metrics,
            port=metrics_port,
            address=metrics_address,
            shards=False,
        ),
    )
    if interrupted:
        raise click.exceptions.Exit(130)


def _page(path: Path | None, settings: ApiSettings) -> list[Any]:
    if path is None:
        return []
    if settings.keys:
        raise SettingsError(
            "--page cannot be served beside keys, which it does not have: write it with `streamproc page --api-key`,"
            " whose files any web server can serve"
        )
    return page_routes(read_catalogue(path), live=False)


def _given(value: str | None, option: str, variable: str) -> str:
    if not value:
        raise SettingsError(f"{option} is missing: give it, or set {variable}")
    return value


def _keys(path: Path | None) -> tuple[ApiKey, ...]:
    text = os.environ.get("STREAMPROC_API_KEYS", "")
    if path is not None:
        try:
            text += "\n" + path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"--keys-file {path} cannot be read: {error}") from error
    return read_keys(text, f"{path or 'STREAMPROC_API_KEYS'}")
