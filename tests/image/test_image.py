"""The image, as its steps make it: what it holds, how it starts, as which user, and how it is told to be well."""

import re
import subprocess
from pathlib import Path

import pytest
from image import containers, dockerfile
from image.builder import BASE, Image
from image.dockerfile import ROOT, Stage, stages, words

TOKEN = "a-management-token-of-some-length"


@pytest.fixture(scope="module")
def final() -> Stage:
    return stages(ROOT / "docker" / "Dockerfile")[-1]


def test_the_last_stage_states_what_was_promised(final: Stage) -> None:
    """User, working folder, volumes, ports, environment, health check, stop signal, entrypoint and command."""
    assert BASE.fullmatch(final.base)
    assert final.last("USER") == "100:101"
    assert final.last("WORKDIR") == "/app"
    assert words(final.last("VOLUME")) == ["/app/data", "/app/logs", "/app/config", "/app/certs"]
    assert final.last("EXPOSE") == "8080 8081"
    assert final.last("STOPSIGNAL") == "SIGTERM"
    assert words(final.last("ENTRYPOINT")) == ["/app/entrypoint.sh"]
    assert words(final.last("CMD")) == ["server"]
    assert final.last("HEALTHCHECK").startswith("--interval=30s --timeout=10s --start-period=20s --retries=3 ")
    wanted = {
        "LISTEN_ADDR": ":8080",
        "DATABASE_PATH": "/app/data/llm-proxy.db",
        "ADMIN_UI_API_BASE_URL": "http://localhost:8080",
    }
    assert wanted.items() <= final.environment().items()
    assert "org.opencontainers.image.source" in final.last("LABEL")


def test_the_last_stage_installs_nothing() -> None:
    """No compiler and no package manager's work at run time; both stages take the two build arguments."""
    build, final = stages(ROOT / "docker" / "Dockerfile")
    assert not [text for name, text in final.steps if name == "RUN" and ("apt-get" in text or "pip" in text)]
    for stage in (build, final):
        given = {text.partition("=")[0] for name, text in stage.steps if name == "ARG"}
        assert given == {"POSTGRES_SUPPORT", "MYSQL_SUPPORT"}
    fetching = [text for name, text in build.steps if name == "RUN" and "-r docker/" in text]
    assert fetching
    assert all(text.count("--require-hashes") == text.count(" -r ") for text in fetching)


def test_the_base_image_is_one_digest() -> None:
    """A tag that moves would change the image behind an unchanged Dockerfile."""
    bases = {stage.base for stage in stages(ROOT / "docker" / "Dockerfile")}
    assert len(bases) == 1
    assert "@sha256:" in bases.pop()


def test_docker_build_in_the_root_finds_the_dockerfile() -> None:
    """`docker build .` as documents print it: the root's Dockerfile is a link to the one in docker/."""
    link = ROOT / "Dockerfile"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "docker" / "Dockerfile"


def test_only_what_is_named_enters_the_build() -> None:
    """No .env, no data, no tests, no history; all that the Dockerfile copies is there."""
    sent = dockerfile.context()
    tops = {path.split("/")[0] for path in sent}
    assert tops == {
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        ".env.example",
        "llm_proxy",
        "llm_proxy_simulator",
        "docker",
    }
    assert not [path for path in sent if path.endswith((".pyc", ".env", ".db", ".key", ".pem"))]
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_the_folders_belong_to_the_user_and_the_code_does_not(image: Image | None) -> None:
    """uid 100 and gid 101 own the four volumes; everything else is root's and readable by all."""
    if image is None:
        return
    listed = image.shell("cd ROOT && stat -c '%n %u:%g %a' app/certs app/config app/entrypoint.sh opt/llm-proxy")
    assert listed.splitlines() == [
        "app/certs 100:101 755",
        "app/config 100:101 755",
        "app/entrypoint.sh 0:0 755",
        "opt/llm-proxy 0:0 755",
    ]
    unreadable = image.shell("find ROOT/opt/llm-proxy ! -perm -a+r ! -type l | head")
    assert not unreadable


def test_every_driver_and_the_fast_parser_are_in(pod: containers.Pod | None) -> None:
    """PostgreSQL, MySQL, Redis and gunicorn_h1c; the package is the image's, not the checkout's."""
    if pod is None:
        return
    code = "import psycopg2, pymysql, redis, gunicorn_h1c, llm_proxy; print(llm_proxy.__file__, llm_proxy.__version__)"
    done = pod.run("python", "-c", code)
    assert done.stdout.startswith("/opt/llm-proxy/lib/python3.11/site-packages/llm_proxy/"), done.stderr


def test_every_back_end_of_the_dispatcher_loads(pod: containers.Pod | None) -> None:
    """OpenTelemetry's exporter and tiktoken are in the image: no back end asks for a package."""
    if pod is None:
        return
    code = (
        "from llm_proxy.dispatcher import backends; import tiktoken\n"
        "print(*(f'{n}={backends.backend_class(n).__name__}' for n in backends.names()))"
    )
    done = pod.run("python", "-c", code)
    assert "otlp=OtlpBackend" in done.stdout, done.stderr


def test_what_was_started_is_noted_for_its_user_alone(pod: containers.Pod | None) -> None:
    """A key that was given as a flag cannot be read by another user, and no process leaves a core file."""
    if pod is None:
        return
    server = pod.start("server", env={"MANAGEMENT_TOKEN": TOKEN})
    pod.wait("http://127.0.0.1:8080/ready", server)
    assert pod.run("stat", "-c", "%a %u", "/tmp/llm-proxy.command").stdout == "600 100\n"
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)
    assert server.stop() == 0, server.printed()


def test_a_private_ca_is_trusted_beside_the_public_ones(pod: containers.Pod | None) -> None:
    """EXTRA_CA_CERTS adds to certifi's bundle; a file that cannot be read ends the start with one line."""
    if pod is None:
        return
    code = (
        "import os, ssl; file = os.environ['REQUESTS_CA_BUNDLE']; assert file == os.environ['SSL_CERT_FILE']\n"
        "print(open(file).read().count('BEGIN CERTIFICATE') > 50, 'a private CA' in open(file).read())"
    )
    pod.image.shell("echo '# a private CA' > ROOT/app/data/ca.crt")
    done = pod.start("python", "-c", code, env={"EXTRA_CA_CERTS": "/app/data/ca.crt"})
    assert done.process.wait(60) == 0, done.printed()
    assert "True True" in done.printed()
    missing = pod.start("server", env={"MANAGEMENT_TOKEN": TOKEN, "EXTRA_CA_CERTS": "/nowhere"})
    assert missing.process.wait(60) == 1
    assert "EXTRA_CA_CERTS=/nowhere cannot be read" in missing.printed()


def test_a_token_is_all_that_it_takes_to_serve(pod: containers.Pod | None) -> None:
    """The default command serves on a read-only root, without a capability; SIGTERM ends it with 0."""
    if pod is None:
        return
    server = pod.start("server", env={"MANAGEMENT_TOKEN": TOKEN})
    pod.wait("http://127.0.0.1:8080/ready", server)
    assert pod.request("http://127.0.0.1:8080/live") == (200, "alive")
    assert pod.request("http://127.0.0.1:8080/manage/projects")[0] == 401
    status, _ = pod.request("http://127.0.0.1:8080/manage/projects", headers={"Authorization": f"Bearer {TOKEN}"})
    assert status == 200
    assert containers.uid_of(server.process.pid) == 100
    done = pod.run("python", "/app/healthcheck.py")
    assert done.returncode == 0, done.stdout
    assert server.stop() == 0, server.printed()
    assert pod.run("python", "/app/healthcheck.py").returncode == 1
    kept = pod.image.shell("cd ROOT/app/data && stat -c '%n %a' llm-proxy.db")
    assert kept == "llm-proxy.db 600\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--version"], "1."),
        (["--help"], "server"),
        (["migrate", "--help"], "up"),
        (["sh", "-c", "echo as it is; id -u"], "as it is\n100"),
        (["python", "-c", "print('as it is')"], "as it is"),
        (["flask", "--version"], "Werkzeug"),
        (["/bin/echo", "as it is"], "as it is"),
    ],
    ids=["--version", "--help", "subcommand", "sh", "python", "flask", "path"],
)
def test_commands_of_ours_and_any_other(pod: containers.Pod | None, args: list[str], says: str) -> None:
    """What is no executable is a command of llm-proxy; an executable is run as it is."""
    if pod is None:
        return
    container = pod.start(*args)
    assert container.process.wait(60) == 0, container.printed()
    assert says in container.printed()


def test_migrations_run_by_themselves(pod: containers.Pod | None) -> None:
    """`migrate up` needs no token; a second one finds nothing to do."""
    if pod is None:
        return
    for _ in range(2):
        container = pod.start("migrate", "up")
        assert container.process.wait(60) == 0, container.printed()


def test_a_folder_that_cannot_be_written_is_named(pod: containers.Pod | None) -> None:
    """Path, uid and the command to run, and exit 1: not a traceback of SQLite."""
    if pod is None:
        return
    pod.image.volumes(owner="12345:12345")
    server = pod.start("server", env={"MANAGEMENT_TOKEN": TOKEN})
    assert server.process.wait(20) == 1
    for words_ in ("/app/data cannot be written by uid 100", "chown -R 100:101"):
        assert words_ in server.printed()


def test_as_root_the_folders_are_handed_over_and_root_is_given_up(pod: containers.Pod | None) -> None:
    """A bind mount of another owner works when the container is started as root, which it does not stay."""
    if pod is None:
        return
    pod.image.volumes(owner="12345:12345")
    pod.image.shell("mkdir -p ROOT/app/data/deeper && chown 12345 ROOT/app/data/deeper")
    server = pod.start("server", env={"MANAGEMENT_TOKEN": TOKEN}, uid=0)
    pod.wait("http://127.0.0.1:8080/ready", server)
    assert containers.uid_of(server.process.pid) == 100
    assert pod.image.shell("stat -c %u ROOT/app/data/deeper") == "100\n"
    assert server.stop() == 0, server.printed()


def test_any_user_will_do_whose_folders_can_be_written(pod: containers.Pod | None) -> None:
    """OpenShift makes up a uid: nothing is written outside the volumes and /tmp."""
    if pod is None:
        return
    pod.image.volumes(owner="1000690000:0")
    server = pod.start("server", env={"MANAGEMENT_TOKEN": TOKEN}, uid=1000690000, gid=0)
    pod.wait("http://127.0.0.1:8080/ready", server)
    assert server.stop() == 0, server.printed()


def test_no_executable_has_the_name_of_a_command(pod: containers.Pod | None) -> None:
    """The entrypoint tells commands from executables by looking for the latter first, but for `whoami`."""
    if pod is None:
        return
    from llm_proxy.cli import COMMANDS

    script = 'for c; do if command -v "$c"; then :; fi; done'
    assert pod.run("sh", "-c", script, "sh", *COMMANDS).stdout == "/usr/bin/whoami\n"
    assert pod.run("/app/entrypoint.sh", "whoami", "--help").stdout.startswith("Usage: llm-proxy whoami")


def test_the_entrypoint_is_clean_shell() -> None:
    """dash takes it without running it, and so do the other scripts' shells."""
    for shell, script in (("sh", "docker/entrypoint.sh"), ("bash", "docker/lock"), ("bash", "bin/validate-chart")):
        done = subprocess.run([shell, "-n", str(ROOT / script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert Path(ROOT / script).stat().st_mode & 0o111
