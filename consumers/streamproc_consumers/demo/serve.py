"""Serves the demonstration: the whole system on this machine, a shop to use it, and the engine room beside it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import UTC, datetime

import msgspec
import uvicorn
from rich.console import Console

from streamproc.local import LocalStack
from streamproc.local.processes import HOST, bound_socket
from streamproc_consumers.api.app import create_app
from streamproc_consumers.api.sending import Sending
from streamproc_consumers.api.services import open_services
from streamproc_consumers.api.settings import ApiSettings
from streamproc_consumers.demo.load import Load
from streamproc_consumers.demo.machine import Machine, Recorded
from streamproc_consumers.demo.run import (
    BUCKET,
    RECOMMENDATIONS,
    RECOMMENDATIONS_PREFIX,
    RECOMMENDER,
    SHARDS,
    STREAM,
    Plan,
    environment_of,
)
from streamproc_consumers.demo.trained import Models
from streamproc_consumers.demo.wares import prepare
from streamproc_consumers.demo.worker import Recommender
from streamproc_consumers.live.routes import PAGE, live_routes, page_routes
from streamproc_models.registry import CHAMPION, open_registry

#: A fifth of the shoppers get the challenger's lists, as soon as there is one.
_EXPERIMENT = '{"salt": "live", "weights": {"champion": 0.8, "challenger": 0.2}}'
_POLL_SECONDS = 1.0


def serve(plan: Plan, console: Console, *, port: int) -> None:
    """Start everything, print the page's address, and keep it up until a signal, which passes through.

    ``plan.rate`` is that of the other shoppers. Raises StreamprocError where a part fails; nothing is left running.
    """
    with ExitStack() as running:
        listener = running.enter_context(bound_socket("the page (--port)", port))
        stack = running.enter_context(
            LocalStack(plan.folder / "stack", kinesis_port=plan.kinesis_port, redis_port=plan.redis_port)
        )
        console.print("[bold]1/3[/] the stack is up: moto (Kinesis, DynamoDB, Firehose, S3) and Redis on 127.0.0.1")
        wares = prepare(plan.data, plan.cut, plan.folder, datetime.now(UTC))
        registry = plan.folder / "registry"
        models = Models(open_registry(str(registry)), wares, plan.folder)
        running.callback(models.close)
        console.print(f"[bold]2/3[/] the model: {plan.model or f'training on {plan.data}'}", soft_wrap=True)
        models.begin(plan.model)
        stack.create_stream(STREAM, SHARDS)
        stack.create_delivery_stream(RECOMMENDATIONS, BUCKET, RECOMMENDATIONS_PREFIX)
        environment = {
            **environment_of(stack, f"{registry}@{CHAMPION}"),
            "STREAMPROC_MODEL_POLL_SECONDS": str(_POLL_SECONDS),
            "STREAMPROC_EXPERIMENT": _EXPERIMENT,
        }
        # The API's part of this process finds the stack as the worker's process does.
        os.environ.update(environment)
        machine = Machine(stack, Recommender(environment, plan.folder / "recommender.log"), models)
        running.callback(machine.close)
        machine.start()
        producer = running.enter_context(Recorded(machine.feed, machine.ledger, stack.client("kinesis")))
        for event in wares.past:
            producer.put_past(event)
        producer.flush()
        machine.until_known()
        machine.load = Load(wares.visits, plan.rate, producer.put)
        running.callback(machine.load.close)
        machine.load.start()
        models.train_challenger()
        settings = ApiSettings(
            model=f"{registry}@{CHAMPION}",
            redis_url=stack.redis_url,
            stream=STREAM,
            application=RECOMMENDER,
            experiment=_EXPERIMENT,
            model_poll_seconds=_POLL_SECONDS,
            port=port,
        )
        # The API's events go through the producer that keeps the books.
        services = msgspec.structs.replace(
            open_services(settings), sending=Sending(producer, settings.acknowledge_seconds)
        )
        extra = [*page_routes(wares.catalogue, live=True), *live_routes(machine)]
        app = create_app(settings, services=services, extra=extra)
        listener.listen(128)  # whoever reads the address may come at once
        console.print(
            f"[bold]3/3[/] the shop is open: [bold]http://{HOST}:{listener.getsockname()[1]}{PAGE}/[/]   (Ctrl-C closes"
            " it)",
            soft_wrap=True,
        )
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=1
        )
        uvicorn.Server(config).run(sockets=[listener])
