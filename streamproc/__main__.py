"""The command line's outermost layer: finds the commands, and turns errors into a sentence and an exit code."""

from __future__ import annotations

import gc
import sys

#: Commands of the other distributions, so that a missing one can be named.
_DISTRIBUTION_OF = {
    "api": "streamproc-consumers[api]",
    "producer": "streamproc-producers[cli]",
    "replay": "streamproc-producers[cli]",
    "simulate": "streamproc-producers[cli]",
    "evaluate": "streamproc-models[cli,evaluate]",
    "models": "streamproc-models[cli]",
    "train": "streamproc-models[cli]",
    "demo": "streamproc-consumers[demo]",
    "explain": "streamproc-consumers",
    "experiment": "streamproc-consumers",
    "load": "streamproc-consumers",
    "page": "streamproc-consumers[api]",
    "audit": "streamproc-consumers[audit]",
}


def main() -> None:
    """Run ``streamproc``, and exit with the code of what happened."""
    # Modules make no garbage: to look for it after every 700 objects takes a twentieth of the start.
    gc.set_threshold(50_000)
    try:
        import click  # the SDK installs this script without the extra
    except ModuleNotFoundError:
        sys.stderr.write("streamproc: the command line needs an extra: pip install 'streamproc[cli]'\n")
        sys.exit(9)

    from streamproc.cli import commands
    from streamproc.errors import StreamprocError

    try:
        # Without standalone mode click returns the code of an Exit, and the command's own value, which is None here.
        sys.exit(commands(_DISTRIBUTION_OF).main(standalone_mode=False, prog_name="streamproc"))
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StreamprocError as error:
        sys.stderr.write(f"streamproc: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # The interpreter's end looks through all modules for garbage, for a fifth of a short command's time.
        gc.freeze()


if __name__ == "__main__":
    main()
