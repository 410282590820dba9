"""`python -m llm_proxy.dispatcher`: what the command `llm-proxy dispatcher` becomes once its flags are variables."""

from llm_proxy.runtime import patching

patching.patch_all()

import sys  # noqa: E402

from llm_proxy import logs  # noqa: E402
from llm_proxy.dispatcher.options import OptionsError, options  # noqa: E402
from llm_proxy.dispatcher.process import Process, StartFailed  # noqa: E402
from llm_proxy.dispatcher.readiness import Readiness  # noqa: E402
from llm_proxy.runtime import core_dumps  # noqa: E402
from llm_proxy.settings import Loaded, load  # noqa: E402


def main(arguments: list[str]) -> int:
    """Exit code 0 for a clean end, 1 for anything wrong with arguments, configuration or the run."""
    core_dumps.disable()
    loaded = load()
    try:
        if loaded.faults:
            raise OptionsError("\n".join(loaded.faults))
        found = options(loaded.settings)
        _configure_logs(loaded)
        return Process(found.once_only() if "--once" in arguments else found, Readiness.from_arguments(arguments)).run()
    except (OptionsError, StartFailed) as exc:
        for line in str(exc).splitlines():
            print(f"Error: {line}", file=sys.stderr)
    return 1


def _configure_logs(loaded: Loaded) -> None:
    try:
        logs.configure(loaded.settings)
    except OSError as exc:
        raise StartFailed(f"LOG_FILE={loaded.settings.operation.log_file}: {exc.strerror}") from exc


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
